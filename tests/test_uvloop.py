"""The network under uvloop: tests of both event loops, run once more in a third one."""

from __future__ import annotations

from typing import Any

import pytest

from llmkit import create_llm_provider

from ._async.conftest import api, server
from ._async.test_execute import test_answer_has_everything_that_the_service_said
from ._async.test_stream import (
    test_break_closes_the_connection,
    test_garbage_collection_closes_the_connection,
    test_reset_in_the_middle_gives_what_came,
    test_text_is_handed_out_as_it_arrives,
)
from ._async.test_transport import (
    test_a_kept_connection_that_the_server_closed_is_not_used,
    test_a_large_body_with_a_large_request,
)
from ._async.test_transport_faults import (
    test_a_server_that_reads_nothing_ends_the_write,
    test_each_wait_for_a_body_is_bounded,
    test_no_server_no_name_no_connection,
    test_the_wait_for_a_head_is_bounded_in_total,
)
from ._async.test_transport_tls import (
    authority,
    test_connecting_is_bounded_with_its_handshake,
    test_tls,
    test_tls_that_cannot_be_trusted,
    test_tls_that_is_cut,
    trust,
)
from .server import Server, json_reply
from .test_cancellation import (
    test_cancellations_at_any_moment_leave_the_provider_usable,
    test_cancelled_call_closes_its_connection,
)
from .test_loops import API, settings

uvloop: Any = pytest.importorskip("uvloop")
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run each async test under uvloop."""
    return "asyncio", {"use_uvloop": True}


def test_provider_works_in_one_loop_after_the_other(server: Server) -> None:
    server.default = json_reply(API.plain())
    own = settings(server) | {"base_url": server.base_url.replace("127.0.0.1", "localhost")}
    provider = create_llm_provider("openai", **own)

    async def ask_twice() -> None:
        for _ in range(2):
            assert (await provider.execute("Hi")).content == "Hello!"

    for number in range(3):
        uvloop.run(ask_twice())
        assert server.wait_gone(number)
    assert [request.connection for request in server.requests] == [0, 0, 1, 1, 2, 2]
