"""Keys: an own one for each use, none that shows itself."""

from __future__ import annotations

import re
from hashlib import blake2b

import pytest

from evsession.errors import ConfigError
from evsession.keys import DerivedKeys, Keyring, check_secret, listed_secrets, mac

OLD, NEW, AUDIT = "o" * 32, "n" * 32, "a" * 32
USES = ("tag", "head", "redact", "csrf", "renewal", "message", "archive")
LOOK_UPS = ("head", "redact", "message", "renewal", "csrf")


def test_every_use_secret_and_namespace_has_a_key_of_its_own() -> None:
    """What is made for one use, by one app, is worth nothing for another."""
    derived = [DerivedKeys(secret, space) for secret in (b"o" * 32, b"n" * 32) for space in ("shop", "blog")]
    keys = {getattr(one, use) for one in derived for use in USES}
    assert len(keys) == 4 * len(USES)
    assert all(len(key) == 32 for key in keys)
    assert len({one.fingerprint for one in derived}) == 4


def test_derivation_never_changes() -> None:
    """Another derivation signs everybody out and breaks every log: this value is part of the format."""
    ring = Keyring(OLD, namespace="shop")
    digest = blake2b(ring.signing.tag + (ring.head(ring.key_id) or b""), digest_size=8).hexdigest()
    assert (ring.key_id, digest) == ("570b", "a4dc02304440724d")


def test_text_and_bytes_are_the_same_secret() -> None:
    """An environment variable and a file give the same keys, and text that is no UTF-8 is a secret too."""
    assert Keyring(OLD, namespace="shop").signing.tag == Keyring([OLD.encode()], namespace="shop").signing.tag
    assert Keyring(OLD + "\udcff\ud800", namespace="shop").key_id


def test_the_first_signs_and_all_verify() -> None:
    """A rotation deploys [old, new], then [new, old], then [new]."""
    ring = Keyring([NEW, OLD], namespace="shop")
    old = Keyring([OLD], namespace="shop")
    assert ring.key_id == Keyring(NEW, namespace="shop").key_id == ring.signing.key_id
    assert [keys.tag for keys in ring.verifying][1] == old.signing.tag
    for look_up in LOOK_UPS:
        assert getattr(ring, look_up)(old.key_id) == getattr(old, look_up)(old.key_id) is not None
    assert ring.fingerprints() == (ring.signing.fingerprint, *old.fingerprints())


@pytest.mark.parametrize("look_up", LOOK_UPS)
@pytest.mark.parametrize("key_id", ["", "0000", "ffff0", "é"])
def test_an_unknown_id_has_no_key(look_up: str, key_id: str) -> None:
    """It comes from Redis, so it may be anything."""
    assert getattr(Keyring(OLD, namespace="shop"), look_up)(key_id) is None


def test_ids_and_fingerprints_are_public_texts() -> None:
    """They go to Redis: 4 and 16 hex digits."""
    ring = Keyring(OLD, namespace="shop")
    assert re.fullmatch(r"[0-9a-f]{4}", ring.key_id)
    assert re.fullmatch(r"[0-9a-f]{16}", ring.fingerprints()[0])
    assert ring.audit_id == ring.key_id


def test_an_audit_key_takes_over_heads_and_redaction_only() -> None:
    """Who has the secret key alone cannot write a log that verifies; tokens stay as they were."""
    plain, ring = Keyring(OLD, namespace="shop"), Keyring(OLD, namespace="shop", audit_key=AUDIT)
    assert ring.signing.tag == plain.signing.tag
    assert ring.message(ring.key_id) == plain.message(plain.key_id)
    assert ring.head(ring.key_id) is ring.redact(ring.key_id) is None
    assert ring.audit_id != ring.key_id
    assert ring.head(ring.audit_id) not in (None, plain.head(plain.key_id))
    assert ring.redact(ring.audit_id) not in (None, plain.redact(plain.key_id))
    assert ring.message(ring.audit_id) is None


def test_an_audit_key_signs_archives_too() -> None:
    """Newest first, and without one the secret keys do."""
    ring = Keyring([NEW, OLD], namespace="shop")
    assert ring.archive_seeds() == tuple(DerivedKeys(key.encode(), "shop").archive for key in (NEW, OLD))
    audited = Keyring([NEW, OLD], namespace="shop", audit_key=AUDIT)
    assert audited.archive_seeds() == (DerivedKeys(AUDIT.encode(), "shop").archive,)


def test_an_audit_key_can_be_introduced_while_old_heads_live() -> None:
    """Listing the old secret after it keeps what was written before readable."""
    plain = Keyring(OLD, namespace="shop")
    ring = Keyring(OLD, namespace="shop", audit_key=[AUDIT, OLD])
    assert ring.audit_id == Keyring(AUDIT, namespace="shop").key_id
    assert ring.head(plain.key_id) == plain.head(plain.key_id)


def test_a_keyring_hides_everything() -> None:
    """Neither in a traceback nor in a log."""
    ring = Keyring([NEW, OLD], namespace="shop", audit_key=AUDIT)
    assert (repr(ring), str(ring.signing)) == ("<Keyring: hidden>", "<DerivedKeys: hidden>")
    assert not hasattr(ring, "__dict__")
    assert not hasattr(ring.signing, "__dict__")
    assert OLD not in repr([getattr(ring, name) for name in Keyring.__slots__])


@pytest.mark.parametrize("secret", ["", "x" * 31, b"x" * 31])
def test_a_short_secret_is_refused_with_the_command_that_makes_one(secret: str | bytes) -> None:
    """And is not printed."""
    command = re.escape('python -c "import secrets; print(secrets.token_urlsafe(32))"')
    with pytest.raises(ConfigError, match=command) as caught:
        Keyring([secret], namespace="shop")
    assert not secret or str(secret) not in str(caught.value)


def test_secrets_are_text_or_bytes() -> None:
    """The setting that is wrong is named, the value is not."""
    with pytest.raises(ConfigError, match=r"^audit key is of type int; pass text or bytes"):
        Keyring(OLD, namespace="shop", audit_key=[12345])  # type: ignore[list-item]
    assert check_secret("ä" * 32, "secret_key") == ("ä" * 32).encode()


def test_no_secret_and_the_same_twice_are_refused() -> None:
    """An empty list would verify nothing; two of one id could not be told apart."""
    with pytest.raises(ConfigError, match="secret_key is empty; generate one"):
        Keyring([], namespace="shop")
    with pytest.raises(ConfigError, match="drop the one given twice, or generate another"):
        Keyring([OLD, NEW, OLD.encode()], namespace="shop")


def test_a_digest_tells_parts_apart() -> None:
    """The same bytes, cut elsewhere, are another message."""
    key = b"k" * 32
    messages = [(), (b"",), (b"", b""), (b"ab",), (b"a", b"b"), (b"", b"ab"), (b"ab", b""), (b"a\0\0\0\0\0\0\0b",)]
    assert len({mac(key, *parts) for parts in messages}) == len(messages)
    assert mac(b"j" * 32, b"ab") != mac(key, b"ab")
    assert (len(mac(key, b"x")), len(mac(key, b"x", size=32))) == (16, 32)
    prefixed = (2).to_bytes(8, "little") + b"ab"
    assert mac(key, b"ab") == blake2b(prefixed, key=key, digest_size=16).digest()


def test_the_fingerprints_of_audit_keys_are_told_apart_from_those_of_secret_keys() -> None:
    """Without an audit key they are the same; each names its key and tells nothing of it."""
    secret, audit, old = "s" * 32, "a" * 32, "o" * 32
    alone = Keyring(secret, namespace="shop")
    assert alone.audit_fingerprints() == alone.fingerprints()
    both = Keyring(secret, namespace="shop", audit_key=[audit, old])
    assert both.fingerprints() == alone.fingerprints()
    assert both.audit_fingerprints() == Keyring([audit, old], namespace="shop").fingerprints()


def test_a_setting_lists_secrets_one_after_the_other() -> None:
    """Separated by spaces or lines; none, or one of any length, is for others to judge."""
    old, new = "o" * 32, "n" * 32
    assert listed_secrets(f" {new} {old}\n", "EVSESSION_SECRET_KEY") == [new, old]
    assert listed_secrets("short", "EVSESSION_SECRET_KEY") == ["short"]
    assert listed_secrets("  ", "EVSESSION_SECRET_KEY") == []


@pytest.mark.parametrize("text", ["correct horse battery staple, which is long enough", "n" * 32 + " old"])
def test_a_passphrase_is_not_a_list_of_words(text: str) -> None:
    """The first word would sign. The text names the setting and the way out, and has no word of the secret."""
    with pytest.raises(ConfigError, match=r"SHOP_SECRET_KEY is read as \d secrets.*pass a passphrase as secret_key="):
        listed_secrets(text, "SHOP_SECRET_KEY")
    with pytest.raises(ConfigError) as caught:
        listed_secrets(text, "SHOP_SECRET_KEY")
    assert not {"correct", "horse", "old"} & set(str(caught.value).split())


def test_who_verifies_is_given_the_keys_for_heads_and_digests_alone() -> None:
    """The same that the keyring has, by the same ids; and printing them shows none."""
    ring = Keyring(["a" * 32, "b" * 32], namespace="shop", audit_key=["c" * 32, "a" * 32])
    keys = ring.for_audit()
    assert list(keys.by_id) == [ring.audit_id, ring.key_id]
    for key_id in (*keys.by_id, "none", Keyring("b" * 32, namespace="shop").key_id):
        assert keys.head(key_id) == ring.head(key_id)
        assert keys.redact(key_id) == ring.redact(key_id)
    assert repr(keys) == "<AuditKeys: hidden>"
