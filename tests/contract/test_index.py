"""The index of users; and what its keys on a server look like."""

import pytest

from evsession.stores.redis.keys import hash_slot, user_key, user_of
from evsession.testing.conformance.index import *  # noqa: F403
from evsession.testing.conformance.index import USERS


def test_the_key_of_a_user_names_the_user() -> None:
    """And the tag, which is one of 256, is all that the slot depends on."""
    keys = [user_key("shop", user) for user in USERS]
    assert [user_of("shop", key) for key in keys] == list(USERS)
    assert len({hash_slot(user_key("shop", str(number))) for number in range(5000)}) == 256
    assert all(hash_slot(key) == hash_slot(key.partition(b"}")[0] + b"}") for key in keys)


@pytest.mark.parametrize("key", [b"{shop:u00}:u:42", b"{shop:u9d}:u:\xff", b"{shop:u9d}", b"{shop:00}:s:42", b""])
def test_other_keys_name_nobody(key: bytes) -> None:
    """Such as one under another tag, or one that is no text."""
    assert user_of("shop", key) is None
