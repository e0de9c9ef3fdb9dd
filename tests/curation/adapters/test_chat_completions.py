"""A language model server over real HTTP: answers, invalid answers, rate limits, errors, and use of the API key."""

from __future__ import annotations

import email.utils
import time

import pytest

from curation.adapters.chat import MAX_BACKOFF_SECONDS, MAX_TRIES, ChatCompletionsClient
from curation.errors import Refused, Unreachable
from tests.support.chat_server import Reply, error_reply, serving, text_reply
from tests.support.servers import free_port


def ask(server, pauses=None, key=None):
    pauses = [] if pauses is None else pauses
    return ChatCompletionsClient(server.address, "some-model", key, pauses.append).generate(
        "what?", 50, 3
    )


def test_a_question_is_one_chat_completion():
    with serving([text_reply("an answer")]) as server:
        assert ask(server, key="sesame") == "an answer"
    assert server.paths == ["/v1/chat/completions"]
    assert server.keys == ["Bearer sesame"]
    [requested] = server.asked
    assert requested["messages"] == [{"role": "user", "content": "what?"}]
    assert (requested["model"], requested["max_tokens"], requested["seed"]) == ("some-model", 50, 3)


def test_without_a_key_none_is_sent_and_a_slash_does_not_matter():
    with serving([text_reply("an answer")]) as server:
        server.address += "/"
        assert ask(server) == "an answer"
    assert server.keys == [None]
    assert server.paths == ["/v1/chat/completions"]


def test_an_answer_cut_at_the_token_limit_is_returned_as_it_is():
    with serving([text_reply('{"text": "a c', "length")]) as server:
        assert ask(server) == '{"text": "a c'


def test_a_refusal_of_the_model_is_an_empty_answer():
    with serving([text_reply(None)]) as server:
        assert ask(server) == ""


def test_a_rate_limit_is_waited_for_as_long_as_the_server_demands():
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)
    replies = [
        error_reply(429, "Rate limit reached", Retry_After="7"),
        error_reply(429, "Rate limit reached", Retry_After=soon),
        error_reply(429, "Rate limit reached", Retry_After="9999"),
        error_reply(503, "The engine is overloaded", Retry_After="whenever"),
        text_reply("at last"),
    ]
    pauses: list[float] = []
    with serving(replies) as server:
        assert ask(server, pauses) == "at last"
    assert pauses[0] == 7
    assert 20 < pauses[1] <= 30
    assert pauses[2:] == [MAX_BACKOFF_SECONDS, 8]


@pytest.mark.parametrize(
    "broken",
    [
        Reply(body=b"<html>proxy</html>"),
        Reply(body=b""),
        Reply(body=b"[]"),
        Reply(body=b'{"choices": []}'),
        Reply(body=b'{"choices": [{"text": "the older form"}]}'),
        Reply(body=b'{"choices": [{"mess', cut=True),
        Reply(502, b"Bad Gateway"),
    ],
    ids=lambda reply: repr(reply.body),
)
def test_a_broken_answer_is_asked_for_again(broken):
    with serving([broken, text_reply("an answer")]) as server:
        assert ask(server) == "an answer"
    assert len(server.asked) == 2


def test_a_server_that_keeps_failing_is_an_error_with_its_message():
    pauses: list[float] = []
    with (
        serving([Reply(body=b"<html>welcome</html>")]) as server,
        pytest.raises(Unreachable, match="<html>welcome"),
    ):
        ask(server, pauses)
    assert len(server.asked) == MAX_TRIES
    assert pauses == [1, 2, 4, 8]
    with serving([error_reply(429, "You exceeded\nyour quota")]) as server:
        with pytest.raises(Unreachable, match="429, You exceeded your quota"):
            ask(server)


def test_an_unreachable_server_is_an_error():
    chat = ChatCompletionsClient(
        f"http://127.0.0.1:{free_port()}/v1", "m", None, lambda seconds: None
    )
    with pytest.raises(Unreachable, match="did not answer in 5 tries: ConnectError"):
        chat.generate("what?", 5, 0)


def test_a_request_that_the_server_rejects_is_not_repeated():
    with serving([error_reply(401, "Incorrect API key provided: sesame")]) as server:
        with pytest.raises(Refused, match="refused the key") as error:
            ask(server, key="sesame")
    assert "sesame" not in str(error.value)
    assert "LAYERLOOP_LLM_KEY" in error.value.hint
    with serving([error_reply(404, "The model `some-model` does not exist")]) as server:
        with pytest.raises(Refused, match="404, The model `some-model` does not exist"):
            ask(server)
    assert len(server.asked) == 1
    with serving(
        [Reply(307, headers={"Location": "http://127.0.0.1:1/v1/chat/completions"})]
    ) as server:
        with pytest.raises(Refused, match="307"):
            ask(server, key="sesame")  # a key goes nowhere else


def test_other_addresses_are_refused():
    with pytest.raises(Refused, match="not the URL of a server"):
        ChatCompletionsClient("file:///etc/passwd", "m")
