"""The promises of `evsession.store.Store` as tests that a store of your own runs against itself.

``from evsession.testing.conformance import *`` in a test module that has a fixture `open_store`; see
docs/how-to/testing.md.
"""

import pytest

# Only what is registered before its import says what an assertion has compared.
pytest.register_assert_rewrite(
    "evsession.testing.conformance.builder",
    "evsession.testing.conformance.commit",
    "evsession.testing.conformance.connecting",
    "evsession.testing.conformance.deadlines",
    "evsession.testing.conformance.feed",
    "evsession.testing.conformance.heartbeat",
    "evsession.testing.conformance.index",
    "evsession.testing.conformance.inspection",
    "evsession.testing.conformance.log",
    "evsession.testing.conformance.opening",
    "evsession.testing.conformance.restore",
    "evsession.testing.conformance.revoke",
    "evsession.testing.conformance.turns",
)

from evsession.testing.conformance.commit import *
from evsession.testing.conformance.connecting import *
from evsession.testing.conformance.deadlines import *
from evsession.testing.conformance.feed import *
from evsession.testing.conformance.heartbeat import *
from evsession.testing.conformance.index import *
from evsession.testing.conformance.inspection import *
from evsession.testing.conformance.log import *
from evsession.testing.conformance.opening import *
from evsession.testing.conformance.restore import *
from evsession.testing.conformance.revoke import *
from evsession.testing.conformance.turns import *
