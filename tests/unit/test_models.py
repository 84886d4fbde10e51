"""Typed sessions: an object that is checked when it is loaded and when it is committed, and lives in between."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import pydantic
import pytest
from pydantic_core import core_schema

from evsession import adapters
from evsession.config import SessionPolicy
from evsession.errors import CodecError, InvalidUserId, SessionInvalid, Unsupported
from evsession.events import Changes
from evsession.plan import Plan
from evsession.session import Session
from tests.unit.test_session import begun, stored


class Item(pydantic.BaseModel):
    """A part of the Pydantic cart."""

    sku: str
    quantity: int = 1


class PydanticCart(pydantic.BaseModel):
    """A cart."""

    items: list[Item] = []
    coupon: str | None = None
    total: int = 0


@dataclass
class Line:
    """A part of the dataclass cart."""

    sku: str
    quantity: int = 1


@dataclass
class DataclassCart:
    """The same cart."""

    items: list[Line] = field(default_factory=list)
    coupon: str | None = None
    total: int = 0


class Entry(msgspec.Struct):
    """A part of the struct cart."""

    sku: str
    quantity: int = 1


class StructCart(msgspec.Struct):
    """The same cart."""

    items: list[Entry] = []
    coupon: str | None = None
    total: int = 0


class FrozenModel(pydantic.BaseModel, frozen=True):
    """What cannot be set by hand."""

    total: int = 0


@dataclass(frozen=True, slots=True)
class FrozenData:
    """What cannot be set by hand, and has no dict."""

    total: int = 0


class FrozenStruct(msgspec.Struct, frozen=True):
    """What cannot be set by hand."""

    total: int = 0


CARTS: list[Any] = [PydanticCart, DataclassCart, StructCart]
FROZEN: list[Any] = [FrozenModel, FrozenData, FrozenStruct]
ITEM = {"sku": "tea", "quantity": 2}


def set_of(session: Session) -> Any:
    """Return what would be committed, which must be no more than keys that are set."""
    plan = session.plan()
    assert not plan.changes.unset
    return plan.changes.set_


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cart", CARTS)
def test_the_whole_session_is_an_object(cart: Any) -> None:
    """With other keys beside its own; asked for again it is the same one, and reading changes nothing."""
    session = begun({"items": [ITEM], "total": 5, "theme": "dark"})
    found = session.model(cart)
    assert (found.items[0].sku, found.items[0].quantity, found.coupon, found.total) == ("tea", 2, None, 5)
    assert session.model(cart) is found
    assert session.accessed
    assert not session.might_differ()
    assert not session.plan()


@pytest.mark.parametrize("cart", CARTS)
def test_a_key_is_an_object(cart: Any) -> None:
    """Of its own, beside that of the whole session and of other keys."""
    session = begun({"cart": {"items": [ITEM], "total": 5}, "wishes": {"total": 7}})
    assert (session.model(cart, "cart").total, session.model(cart, "wishes").total, session.model(cart).total) == (
        5,
        7,
        0,
    )
    assert session.model(cart, "cart") is session.model(cart, key="cart")
    assert not session.might_differ()


@pytest.mark.parametrize("cart", CARTS)
@pytest.mark.parametrize("key", [None, "cart"])
def test_what_is_not_there_has_its_default(cart: Any, key: str | None) -> None:
    """In a new session, and in one that was stored before the class had the field; nothing is written for it."""
    stored_before: list[dict[str, Any] | None] = [None, {}, {"cart": {}}]
    for data in stored_before:
        session = begun(data)
        assert (session.model(cart, key).items, session.model(cart, key).total) == ([], 0)
        assert not session.might_differ()
        assert not session.plan()


@pytest.mark.parametrize("cart", CARTS)
def test_it_sees_what_was_set_before_it(cart: Any) -> None:
    """In the dict, by assignment or in place."""
    session = begun({"items": [ITEM]})
    session["items"].append({"sku": "honey"})
    assert [item.quantity for item in session.model(cart).items] == [2, 1]
    session = begun({"total": 1})
    session["total"] = 2
    assert session.model(cart).total == 2


@pytest.mark.parametrize("cart", CARTS)
@pytest.mark.parametrize(
    ("data", "field_", "problem"),
    [
        ({"total": "many"}, "total", "int"),
        ({"items": [ITEM, {"sku": 5}]}, "items[1].sku", "str"),
        ({"items": [ITEM, {"quantity": 5}]}, "items[1].sku", "(?i)required|missing"),
        ({"items": 5}, "items", "(?i)array|list"),
    ],
)
def test_what_does_not_fit_names_its_field(cart: Any, data: Any, field_: str, problem: str) -> None:
    """Within the session or within the key; the value itself is not told."""
    for key, session in ((None, begun(data)), ("cart", begun({"cart": data}))):
        with pytest.raises(SessionInvalid, match=problem) as refused:
            session.model(cart, key)
        assert refused.value.field == (field_ if key is None else f"cart.{field_}")
        assert refused.value.model == cart.__qualname__
        assert "many" not in str(refused.value)
        assert str(refused.value).endswith("or give old sessions a default for it")


@pytest.mark.parametrize("cart", CARTS)
def test_a_key_that_holds_no_object_is_named(cart: Any) -> None:
    """As is a required field at the top."""
    with pytest.raises(SessionInvalid) as refused:
        begun({"cart": [1]}).model(cart, "cart")
    assert refused.value.field == "cart"
    with pytest.raises(SessionInvalid) as missing:
        begun({}).model(Entry)
    assert (missing.value.field, missing.value.problem) == ("sku", "it is missing")


def test_rarer_types_have_a_json_form_of_their_own() -> None:
    """Times and enums come back as what they were, although the session holds text."""

    class Visit(pydantic.BaseModel, strict=True):
        at: datetime = datetime(2000, 1, 1, tzinfo=UTC)

    session = begun({})
    session.model(Visit).at = datetime(2001, 1, 1, tzinfo=UTC)
    assert set_of(session) == {"at": "2001-01-01T00:00:00Z"}
    assert begun(set_of(session)).model(Visit).at == datetime(2001, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("type_", [dict, int, list[int], "Cart", Line("x"), Session])
def test_what_cannot_be_checked_is_refused(type_: Any) -> None:
    """With the kinds that can."""
    with pytest.raises(Unsupported, match="use a Pydantic model, a dataclass or a msgspec struct"):
        begun({}).model(type_)


def test_secrets_that_hide_in_json_are_refused() -> None:
    """They would be stored as stars, and a change of one could not be seen; with a serializer they are as any other."""

    class Hidden(pydantic.BaseModel):
        pin: pydantic.SecretStr = pydantic.SecretStr("")

    class Shown(Hidden):
        @pydantic.field_serializer("pin", when_used="json")
        def shown(self, pin: pydantic.SecretStr) -> str:
            return pin.get_secret_value()

    with pytest.raises(Unsupported, match="field_serializer"):
        begun({}).model(Hidden)
    session = begun({})
    session.model(Shown).pin = pydantic.SecretStr("4711")
    assert set_of(session) == {"pin": "4711"}


def test_a_class_without_a_schema_is_taken_at_its_word() -> None:
    """Some types have JSON and no schema of it."""

    class Called(pydantic.BaseModel):
        hook: Annotated[str, pydantic.GetPydanticSchema(_without_schema)] = "x"

    session = begun({})
    session.model(Called).hook = "y"
    assert set_of(session) == {"hook": "y"}


def _without_schema(_: Any, __: Any) -> Any:
    return core_schema.no_info_plain_validator_function(lambda value: value)


def test_dataclasses_take_what_library_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pydantic if it is there, then msgspec; without either they cannot be checked."""
    there = {"pydantic", "msgspec"}
    monkeypatch.setattr(adapters, "find_spec", lambda name: importlib.util.find_spec(name) if name in there else None)
    monkeypatch.setattr(adapters, "_adapter_of", adapters._adapter_of.__wrapped__)
    for _ in range(2):
        session = begun({"items": [ITEM]})
        session.model(DataclassCart).items[0].quantity = 3
        assert set_of(session) == {"items": [{"sku": "tea", "quantity": 3}]}
        session.rebased(stored({"total": 4}))
        assert session.model(DataclassCart).total == 4
        there.discard("pydantic")
    there.clear()
    with pytest.raises(Unsupported, match="install pydantic or msgspec"):
        begun({}).model(DataclassCart)


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cart", CARTS)
def test_only_changed_fields_of_the_session_are_set(cart: Any) -> None:
    """So that others may change the rest meanwhile; keys that the class does not know stay."""
    session = begun({"items": [ITEM], "total": 5, "theme": "dark"})
    session.model(cart).total = 6
    assert session.might_differ()
    assert session.plan() == Plan(changes=Changes(set_={"total": 6}))
    session.model(cart).items[0].quantity = 3
    assert set_of(session) == {"total": 6, "items": [{"sku": "tea", "quantity": 3}]}
    session.model(cart).total = 5
    session.model(cart).items[0].quantity = 2
    assert not session.plan()


@pytest.mark.parametrize("cart", CARTS)
def test_the_value_of_a_key_is_set_as_a_whole(cart: Any) -> None:
    """With every field of the class, and whatever a newer version of it has stored beside them."""
    session = begun({"cart": {"total": 5, "points": 9}, "theme": "dark"})
    session.model(cart, "cart").coupon = "ten"
    assert set_of(session) == {"cart": {"items": [], "coupon": "ten", "total": 5, "points": 9}}
    session = begun({"cart": {"total": 5}})
    session["cart"] = None
    assert set_of(session) == {"cart": None}


@pytest.mark.parametrize("cart", CARTS)
def test_a_change_that_does_not_fit_is_refused_at_the_commit(cart: Any) -> None:
    """Each time, until it fits; nothing of it was written."""
    session = begun({"total": 5})
    session.model(cart).total = "many"
    assert session.might_differ()
    for _ in range(2):
        with pytest.raises(SessionInvalid) as refused:
            session.plan()
        assert refused.value.field == "total"
    assert dict(session) == {"total": 5}
    session.model(cart).total = 6
    assert set_of(session) == {"total": 6}


@pytest.mark.parametrize("cart", CARTS)
@pytest.mark.parametrize("key", [None, "cart"])
def test_what_has_no_json_form_is_named(cart: Any, key: str | None) -> None:
    """As in the dict."""
    session = begun({})
    session.model(cart, key).coupon = object()
    with pytest.raises(SessionInvalid, match="JSON") as refused:
        session.plan()
    assert refused.value.field == ("coupon" if key is None else "cart.coupon")


def test_a_class_may_be_open() -> None:
    """What it has no field for is kept in it; if that has no JSON form, no field is to blame."""

    class Open(pydantic.BaseModel, extra="allow"):
        n: int = 0

    session = begun({"n": 1, "color": "red"})
    found: Any = session.model(Open)
    found.color = "blue"
    assert set_of(session) == {"color": "blue"}
    session.rebased(stored({"n": 1, "color": "green", "size": 4}, version=2))
    assert (found.color, found.size) == ("blue", 4)
    found.color = object()
    with pytest.raises(SessionInvalid, match=r"the session does not fit the model .*Open") as refused:
        session.plan()
    assert refused.value.field == ""


@pytest.mark.parametrize("cart", CARTS)
def test_an_equal_value_is_no_change(cart: Any) -> None:
    """Whether it is the same object or not; another type is, where the class makes a difference."""
    session = begun({"coupon": "ten euros off", "total": 5})
    session.model(cart).coupon = "".join(["ten euros", " off"])
    assert not session.might_differ()
    session.model(cart).total = 5
    assert not session.plan()


@pytest.mark.parametrize("cart", CARTS)
@pytest.mark.parametrize("key", [None, "cart"])
def test_what_the_session_refuses_is_refused_each_time(cart: Any, key: str | None) -> None:
    """What fits the class and not the session: a number over 64 bits is no other number."""
    session = begun({"total": 5, "cart": {"total": 5}})
    session.model(cart, key).coupon = "ten"
    session.model(cart, key).total = 2**70 + 1
    for _ in range(2):
        assert session.might_differ()
        with pytest.raises(CodecError, match="64 bit") as refused:
            session.plan()
        assert refused.value.key == ("total" if key is None else "cart.total")
    session.model(cart, key).total = 6
    assert session.plan()


@pytest.mark.parametrize("cart", CARTS)
def test_what_the_session_refuses_within_a_field_is_named(cart: Any) -> None:
    """By its place."""
    session = begun({"items": [ITEM]})
    session.model(cart).items[0].quantity = 2**70
    for _ in range(2):
        assert session.might_differ()
        with pytest.raises(CodecError, match="64 bit") as refused:
            session.plan()
        assert refused.value.key == "items[0].quantity"


def test_a_user_that_cannot_be_one_is_refused_each_time() -> None:
    """As at `session[key] = value`."""

    class Visitor(pydantic.BaseModel):
        user_id: str | None = None

    session = begun({})
    session.model(Visitor).user_id = ""
    for _ in range(2):
        assert session.might_differ()
        with pytest.raises(InvalidUserId):
            session.plan()


def test_what_is_stored_is_what_the_class_makes_of_it() -> None:
    """A number in a text becomes a number, where the class takes it."""
    session = begun({})
    session.model(PydanticCart).total = "7"  # type: ignore[assignment]
    assert set_of(session) == {"total": 7}


def test_a_field_may_disappear() -> None:
    """Where the class leaves out what is default, it is unset."""

    class Sparse(msgspec.Struct, omit_defaults=True):
        n: int = 0
        m: int = 0

    session = begun({"n": 1, "m": 1})
    session.model(Sparse).n = 0
    assert session.plan().changes == Changes(unset=("n",))
    session = begun({"sparse": {"n": 1, "m": 1, "other": 2}})
    session.model(Sparse, "sparse").n = 0
    assert set_of(session) == {"sparse": {"m": 1, "other": 2}}


def test_names_in_json_may_differ_from_those_in_the_class() -> None:
    """The session has the former."""

    class Aliased(pydantic.BaseModel):
        user_name: str = pydantic.Field("", alias="userName")

        @pydantic.computed_field  # type: ignore[prop-decorator]
        @property
        def shout(self) -> str:
            return self.user_name.upper()

    session = begun({"userName": "ann"})
    assert session.model(Aliased).user_name == "ann"
    session.model(Aliased).user_name = "joe"
    assert set_of(session) == {"userName": "joe"}


# ── living ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cart", CARTS)
def test_after_a_commit_it_goes_on_from_there(cart: Any) -> None:
    """The same object; what was committed is no change any more, what comes next is."""
    session = begun({"total": 5})
    found = session.model(cart)
    found.total = 6
    session.committed(stored({"total": 6}, version=2), session.plan())
    assert not session.might_differ()
    found.total = 7
    assert set_of(session) == {"total": 7}


@pytest.mark.parametrize("cart", CARTS)
@pytest.mark.parametrize("key", [None, "cart"])
def test_what_others_changed_appears_in_it(cart: Any, key: str | None) -> None:
    """After a commit that merged, and after `revalidate`; the object is the same, and its own change is kept."""

    def within(data: dict[str, Any]) -> dict[str, Any]:
        return data if key is None else {key: data}

    session = begun(within({"total": 5}))
    found = session.model(cart, key)
    session.rebased(stored(within({"total": 6, "coupon": "ten"}), version=2))
    assert (found.total, found.coupon) == (6, "ten")
    assert not session.might_differ()
    found.total = 7
    session.committed(stored(within({"total": 7, "coupon": "new", "items": [ITEM]}), version=3), session.plan())
    assert (found.total, found.coupon, found.items[0].sku) == (7, "new", "tea")
    assert not session.might_differ()
    assert session.model(cart, key) is found


@pytest.mark.parametrize("cart", CARTS)
def test_pending_changes_survive_what_others_did(cart: Any) -> None:
    """A field that was changed here and not committed yet."""
    session = begun({"total": 5})
    found = session.model(cart)
    found.total = 6
    session.rebased(stored({"total": 5, "coupon": "ten"}, version=2))
    assert (found.total, found.coupon) == (6, "ten")
    assert set_of(session) == {"total": 6}


@pytest.mark.parametrize("cart", CARTS)
def test_a_change_during_a_commit_stays_pending(cart: Any) -> None:
    """As in the dict."""
    session = begun({"total": 5})
    found = session.model(cart)
    found.total = 6
    plan = session.plan()
    found.coupon = "ten"
    session.committed(stored({"total": 6}, version=2), plan)
    assert found.coupon == "ten"
    assert set_of(session) == {"coupon": "ten"}


@pytest.mark.parametrize("cart", CARTS)
def test_an_invalid_change_is_not_lost_in_silence(cart: Any) -> None:
    """Whatever happens meanwhile, the next commit says so."""
    session = begun({"total": 5})
    session.model(cart).total = "many"
    session.rebased(stored({"total": 5, "coupon": "ten"}, version=2))
    session.model(cart).coupon = object()
    session.rebased(stored({"total": 5, "coupon": "new"}, version=3))
    with pytest.raises(SessionInvalid):
        session.plan()


@pytest.mark.parametrize("frozen", FROZEN)
def test_a_frozen_object_follows_too(frozen: Any) -> None:
    """Nobody can set its fields, but it is the session's."""
    session = begun({"total": 5})
    found = session.model(frozen)
    session.rebased(stored({"total": 6}, version=2))
    assert found.total == 6
    assert not session.might_differ()


@pytest.mark.parametrize("cart", CARTS)
def test_a_logout_leaves_nothing_of_it(cart: Any) -> None:
    """What was changed before is gone, what is changed after begins a new session."""
    session = begun({"total": 5, "coupon": "ten"}, user_id="ann")
    found = session.model(cart)
    found.total = 6
    session.logout()
    assert (found.total, found.coupon) == (0, None)
    assert session.plan() == Plan(end="logout", begins=True)
    found.total = 7
    assert session.plan() == Plan(end="logout", begins=True, changes=Changes(set_={"total": 7}))


@pytest.mark.parametrize("cart", CARTS)
def test_another_user_finds_only_what_this_request_set(cart: Any) -> None:
    """As in the dict."""
    session = begun({"total": 5, "coupon": "ten"}, user_id="ann")
    found = session.model(cart)
    found.total = 6
    session.login("joe")
    assert (found.total, found.coupon) == (6, None)
    assert session.plan().changes == Changes(set_={"total": 6})


@pytest.mark.parametrize("cart", CARTS)
def test_a_login_with_a_dead_token_begins_empty(cart: Any) -> None:
    """What was set before it, by whoever held the dead token, is not taken over."""
    session = begun(None)
    session.is_dead = True
    found = session.model(cart)
    found.total = 6
    session.login("joe")
    assert found.total == 0
    assert session.plan().changes == Changes()


@pytest.mark.parametrize("cart", CARTS)
def test_dropped_changes_are_given_up(cart: Any) -> None:
    """The object is not live any more."""
    session = begun({"total": 5})
    found = session.model(cart)
    found.total = 6
    session.plan()
    session.dropped()
    found.total = 7
    assert not session.might_differ()
    assert session.model(cart).total == 5


def test_a_session_that_it_no_longer_fits_goes_on_without_it() -> None:
    """The object is what it was, and says nothing any more."""
    session = begun({"sku": "tea"})
    found = session.model(Item)
    session.logout()
    found.sku = "honey"
    assert not session.plan().changes.set_


def test_without_objects_nothing_is_asked() -> None:
    """A plain session pays nothing for them."""
    session = Session(SessionPolicy())
    assert session._models == ()
