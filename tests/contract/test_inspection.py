"""What whoever verifies a namespace reads; and what strangers may have left there on a server."""

from evsession.testing.conformance.builder import created, story
from evsession.testing.conformance.inspection import *  # noqa: F403
from evsession.wire import START
from tests.contract.conftest import ConnectRedis, Remote


async def test_an_entry_of_a_stranger_is_its_id_alone(connect_redis: ConnectRedis, remote: Remote) -> None:
    """Who verifies must meet it, and must not stumble over it."""
    store = (await connect_redis("worker-1")).store
    await story(store, [created()])
    id_ = remote.cli("XADD", store.keys("00").log, "*", "hello", "world")
    first, second = await store.lines("00", START.id, 10)
    assert len(first) == 12
    assert second == (id_,)
