"""The command, called in this process: what is asked, what is printed where, and the exit code."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmkit import __version__
from llmkit.cli import main
from llmkit.cli.conversation import split_paths

from .answers import ChatCompletions, Messages, Responses, error_body
from .server import CLOSE, Server, json_reply, stream_reply

API = ChatCompletions()
KEY = "sk-test-0123456789abcdef"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
PDF = b"%PDF-1.7 \xff"
SCHEMA = '{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}'

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as server:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        yield server


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command with arguments and standard input; return its exit code, output and errors."""

    def run(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = main(arguments)
        out, err = capsys.readouterr()
        assert KEY not in out + err
        assert "Traceback" not in err
        return status, out, err

    return run


def test_an_answer_is_streamed_to_standard_output(server: Server, run: Run) -> None:
    server.add(stream_reply(API.stream("Bon", "jour")))
    assert run("chat", "Say", "hello") == (0, "Bonjour\n", "")
    assert server.bodies[0]["stream"] is True
    assert server.bodies[0]["model"] == "gpt-4o-mini"
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "Say hello"}]


def test_an_answer_that_ends_its_line_gets_no_other(server: Server, run: Run) -> None:
    server.add(stream_reply(API.stream("One\n", "Two\n")), stream_reply(API.stream()))
    assert run("chat", "Hi")[1] == "One\nTwo\n"
    assert run("chat", "Hi")[1] == ""


def test_the_prompt_is_the_arguments_and_then_what_is_piped_in(server: Server, run: Run, tmp_path: Path) -> None:
    server.default = stream_reply(API.stream("Yes"))
    notes = tmp_path / 'notes "1".txt'
    notes.write_text("\ufeffBuy milk", "utf-8")
    run("chat", "Translate", stdin=b"Guten Tag\n")
    run("chat", stdin="Grüße".encode())
    run("chat", "-f", str(notes), "-s", "Be brief", "Sum up", stdin=b"Now")
    run("chat", "-f", "-", stdin=b"Read")
    sent = [[message["content"] for message in body["messages"]] for body in server.bodies]
    assert sent[:2] == [["Translate\n\nGuten Tag\n"], ["Grüße"]]
    assert sent[2] == ["Be brief", 'Sum up\n\n<file name="notes &quot;1&quot;.txt">\nBuy milk\n</file>\n\nNow']
    assert sent[3] == ['<file name="-">\nRead\n</file>']


def test_images_and_documents_are_parts(server: Server, run: Run, tmp_path: Path) -> None:
    server.default = stream_reply(API.stream("A cat"))
    (tmp_path / "cat").write_bytes(PNG)
    (tmp_path / "report.pdf").write_bytes(PDF)
    run("chat", "-f", str(tmp_path / "cat"), "--file", str(tmp_path / "report.pdf"), "What is this?")
    run("chat", "And this?", stdin=PNG)
    text, image, document = server.bodies[0]["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is this?"}
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert document["file"]["filename"] == "report.pdf"
    assert document["file"]["file_data"].startswith("data:application/pdf;base64,")
    assert [part["type"] for part in server.bodies[1]["messages"][0]["content"]] == ["text", "image_url"]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\xff\xd8\xff\xe0", "image_url"),
        (b"GIF89a", "image_url"),
        (b"RIFF\0\0\0\0WEBP", "image_url"),
        (b"RIFF\0\0\0\0WAVE", "input_audio"),
        (b"ID3\x04", "input_audio"),
        (b"RIFF is no image", "text"),
    ],
)
def test_files_are_known_by_their_content(server: Server, run: Run, data: bytes, kind: str) -> None:
    server.add(stream_reply(API.stream("Yes")))
    run("chat", stdin=data)
    content = server.bodies[0]["messages"][0]["content"]
    assert (content if isinstance(content, str) else content[0]["type"]) == (data.decode() if kind == "text" else kind)


def test_settings_go_into_the_request(server: Server, run: Run) -> None:
    server.add(stream_reply(API.stream("Yes")), stream_reply(Responses().stream("Yes")))
    options = ["--temperature", "0.2", "--max-tokens", "9", "-o", "top_p=0.5", "-o", "user=ada", "-o", 'x={"a": 1}']
    run("chat", "-m", "openai/gpt-4o", *options, "Hi")
    run("chat", "-m", "o3", "--reasoning-effort", "low", "--api-type", "responses", "Hi")
    body = server.bodies[0]
    assert (body["model"], body["temperature"], body["top_p"]) == ("gpt-4o", 0.2, 0.5)
    assert (body["user"], body["x"]) == ("ada", {"a": 1})
    assert 9 in (body.get("max_tokens"), body.get("max_completion_tokens"))
    assert server.requests[1].path == "/v1/responses"
    assert server.bodies[1]["reasoning"]["effort"] == "low"


def test_a_parameter_that_is_all_but_a_setting_is_told_of(server: Server, run: Run) -> None:
    server.add(stream_reply(API.stream("Hi")))
    told = run("chat", "-o", "temprature=1", "-o", "top_k=3", "Hi")[2]
    assert told == (
        "llmkit: there is no setting 'temprature', so it is sent to the service; did you mean 'temperature'?\n"
    )
    assert (server.bodies[0]["temprature"], server.bodies[0]["top_k"]) == (1, 3)


def test_a_service_that_is_all_but_one_is_told_of(server: Server, run: Run) -> None:
    server.default = json_reply(API.plain("Hello"))
    _, _, err = run("chat", "--no-stream", "-m", "antropic/claude", "Hi")
    assert err == (
        "llmkit: there is no service 'antropic', so openai is asked for 'antropic/claude'; did you mean 'anthropic'?\n"
    )
    for model in ("openai/gpt-4o", "org/model", "gpt-4o"):
        assert run("chat", "--no-stream", "-m", model, "Hi")[2] == ""


def test_nested_values_of_an_option_are_text(server: Server, run: Run) -> None:
    server.default = json_reply(API.plain("Hello"))
    assert run("chat", "--no-stream", "-o", "foo=" + "[" * 100_000, "Hi")[0] == 0
    assert server.bodies[0]["foo"] == "[" * 100_000


def test_another_service_answers(server: Server, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add(stream_reply(Messages().stream("Bonjour")))
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    base_url = ["--base-url", server.base_url]
    assert run("chat", "-m", "anthropic/claude-sonnet-4-5", *base_url, "Hi") == (0, "Bonjour\n", "")
    assert server.requests[0].path == "/v1/messages"


def test_json_is_the_whole_response(server: Server, run: Run) -> None:
    server.add(json_reply(API.plain("Grüße")))
    status, out, err = run("chat", "--json", "Hi")
    response = json.loads(out)
    assert (status, out.count("\n"), err) == (0, 1, "")
    assert (response["content"], response["finish_reason"]) == ("Grüße", "stop")
    assert response["usage"]["cache_read"] == 4
    assert response["seconds"] >= 0
    assert "stream" not in server.bodies[0]


def test_without_streaming_the_answer_comes_whole(server: Server, run: Run) -> None:
    server.add(json_reply(API.plain("Bonjour", reasoning_content="Polite.")))
    assert run("chat", "--no-stream", "--reasoning", "Hi") == (0, "Bonjour\n", "Polite.\n")
    assert "stream" not in server.bodies[0]


@pytest.mark.parametrize("in_a_file", [True, False])
def test_a_schema_makes_the_answer_an_object(server: Server, run: Run, tmp_path: Path, in_a_file: bool) -> None:
    server.default = json_reply(API.plain('{"city": "Tromsø"}'))
    schema = SCHEMA
    if in_a_file:
        schema = str(tmp_path / "schema.json")
        Path(schema).write_text(SCHEMA)
    assert run("chat", "--schema", schema, "Where?") == (0, '{"city": "Tromsø"}\n', "")
    sent = server.bodies[0]["response_format"]["json_schema"]
    assert (sent["schema"]["additionalProperties"], sent["strict"]) == (False, True)
    status, out, _ = run("chat", "--schema", schema, "--json", "Where?")
    assert (status, json.loads(out)["parsed"]) == (0, {"city": "Tromsø"})


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ('{"city": 1}', "the answer is no output: city: 1 is not of type 'string'"),
        ("{}", "'city' is a required property"),
        ("Oslo", "the answer is no JSON"),
    ],
)
def test_an_answer_that_is_not_of_the_schema_fails(server: Server, run: Run, answer: str, told: str) -> None:
    pytest.importorskip("jsonschema")
    server.add(json_reply(API.plain(answer)))
    status, out, err = run("chat", "--schema", SCHEMA, "Where?")
    assert (status, out) == (1, "")
    assert told in err


def test_usage_is_told_on_standard_error(server: Server, run: Run) -> None:
    events = API.stream("Hello")
    usage = {**API.usage, "cost": 0.00012}
    events[-2] = events[-2].replace(json.dumps(API.usage).encode(), json.dumps(usage).encode())
    server.add(stream_reply(events))
    status, out, err = run("chat", "--usage", "Hi")
    assert (status, out) == (0, "Hello\n")
    told = r"llmkit: openai/gpt-4o-mini, 11 tokens in \(4 cached\), 7 out \(2 reasoning\), \d+\.\d s, \$0\.00012\n"
    assert re.fullmatch(told, err)


def test_the_price_list_tells_the_cost_where_the_service_does_not(server: Server, run: Run) -> None:
    pytest.importorskip("genai_prices")
    server.default = stream_reply(API.stream("Hello"))
    assert re.search(r" s, \$0\.0\d+\n$", run("chat", "--usage", "-m", "gpt-4o", "Hi")[2])


def test_reasoning_is_shown_on_request(server: Server, run: Run) -> None:
    server.default = stream_reply([API._chunk({"reasoning_content": "Hm."}), *API.stream("Hello")])
    assert run("chat", "Hi") == (0, "Hello\n", "")
    assert run("chat", "--reasoning", "Hi") == (0, "Hello\n", "Hm.\n")


@pytest.mark.parametrize(
    ("events", "status", "out", "told"),
    [
        (API.stream(refusal="I will not."), 1, "", "the model refused to answer: I will not."),
        (API.stream("Half", finish="content_filter"), 1, "Half\n", "content filter"),
        (API.stream("Half", finish="length"), 0, "Half\n", "the answer was cut"),
        ([*API.begun("Half"), API.error("out of memory", code="server_error")], 1, "Half\n", "out of memory"),
    ],
)
def test_an_answer_that_is_none_says_so(
    server: Server, run: Run, events: list[bytes], status: int, out: str, told: str
) -> None:
    server.add(stream_reply(events))
    found = run("chat", "Hi")
    assert found[:2] == (status, out)
    assert told in found[2]
    assert found[2].count("\n") == 1


def test_a_service_that_fails_is_one_line_and_the_status_one(server: Server, run: Run) -> None:
    server.add(json_reply(error_body(f"the key {KEY}\nis wrong"), 401), json_reply(error_body("no such model"), 404))
    for told in ("is wrong", "no such model"):
        status, out, err = run("chat", "Hi")
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("llmkit: openai: ") and told in err
    server.add([CLOSE])
    assert run("chat", "-o", "max_retries=0", "Hi")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["chat"], "there is no prompt"),
        (["chat", "-f", "nowhere.txt"], "nowhere.txt cannot be read: No such file"),
        (["chat", "-f", "."], ". cannot be read: Is a directory"),
        (["chat", "-m", "anthropic/x", "Hi"], "set ANTHROPIC_API_KEY"),
        (["chat", "-m", "azure", "Hi"], "azure: no default model"),
        (["chat", "--temperature", "3", "Hi"], "temperature is 3.0; it must be a number from 0 to 2"),
        (["chat", "-o", "top_p", "Hi"], "'top_p' must be like NAME=VALUE"),
        (["chat", "-o", "extra_params=5", "-o", "foo=1", "Hi"], "extra_params is an int"),
        (["chat", "--schema", "{", "Hi"], "the schema is no JSON"),
        (["chat", "--schema", '{"a": ' + "[" * 100_000, "Hi"], "the schema is no JSON"),
        (["chat", "--schema", '{"type": "objekt"}', "Hi"], "the schema is no JSON schema"),
        (["chat", "--schema", "nowhere.json", "Hi"], "nowhere.json cannot be read"),
        (["chat", "--api-type", "soap", "Hi"], "invalid choice: 'soap'"),
        (["chat", "-m", "mistral/x", "--api-type", "responses", "Hi"], "it has no responses API"),
        (["chat", "-o", "token_limit=1", "a long prompt of many words"], "more than the token_limit 1"),
        (["chat", "--mod", "x", "Hi"], "unrecognized arguments: --mod"),
        (["models", "opnai"], "did you mean 'openai'?"),
        (["tokens", "--encoding", "o201k"], "invalid choice: 'o201k'"),
        ([], "usage: llmkit"),
        (["talk"], "invalid choice: 'talk'"),
    ],
)
def test_wrong_usage_is_two_and_says_what_to_do(
    server: Server, run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.setenv("MISTRAL_API_KEY", KEY)
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert told in err
    assert not server.requests


def test_bytes_that_are_no_text_are_refused(server: Server, run: Run) -> None:
    for data in (b"\xff\xfea\0", b"a\0b"):
        status, _, err = run("chat", "Hi", stdin=data)
        assert (status, server.requests) == (2, [])
        assert "standard input is no text in UTF-8" in err


def test_help_and_version_are_what_was_asked_for(run: Run) -> None:
    assert run("--version") == (0, f"llmkit {__version__}\n", "")
    for command in (["chat"], ["tokens"], ["tokens", "install"], ["providers"], ["models"], ["doctor"], ["vendor"]):
        status, out, err = run(*command, "--help")
        assert (status, err) == (0, "")
        assert out.startswith(f"usage: llmkit {' '.join(command)} [")


def test_providers_are_listed_with_their_variables_and_no_key(server: Server, run: Run) -> None:
    status, out, err = run("providers")
    lines = [re.split(r"  +", line) for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert lines[0] == ["PROVIDER", "KEY", "IS SET", "FORMATS", "ADDRESS"]
    assert lines[1] == ["openai", "OPENAI_API_KEY", "yes", "chat_completions, responses", server.base_url]
    assert ["anthropic", "ANTHROPIC_API_KEY", "no", "messages", "https://api.anthropic.com/v1"] in lines
    services: dict[str, Any] = {each["name"]: each for each in json.loads(run("providers", "--json")[1])}
    assert services["openai"]["key_set"] == "OPENAI_API_KEY"
    assert services["azure"]["address"] == "{AZURE_OPENAI_ENDPOINT}/openai/v1"
    assert (services["ollama"]["key_optional"], services["groq"]["key_optional"]) == (True, False)


def test_an_address_is_listed_without_what_may_be_secret(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "https://user:pa55word@gateway.example/v1?subscription-key=0123456789")
    for arguments in (["providers"], ["providers", "--json"], ["doctor", "--offline"], ["doctor"]):
        _, out, err = run(*arguments)
        assert "openai" in out
        assert "pa55word" not in out + err and "0123456789" not in out + err
    assert "https://…@gateway.example/v1\n" in run("providers")[1]


def test_models_are_listed_with_their_windows(server: Server, run: Run) -> None:
    rows = [{"id": "gpt-4o"}, {"id": "a-model", "context_length": 5000, "max_completion_tokens": 1000}, {"id": "x"}]
    server.default = json_reply({"data": rows})
    status, out, err = run("models")
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["a-model", "5,000", "1,000"],
        ["gpt-4o", "128,000"],
        ["x"],
    ]
    listed = json.loads(run("models", "openai", "--json")[1])
    assert listed[1] == {"id": "gpt-4o", "context_window": 128_000, "max_output_tokens": None}


def test_models_of_a_service_elsewhere(server: Server, run: Run) -> None:
    server.add(json_reply({"data": [{"id": "llama"}]}))
    assert run("models", "vllm", "--base-url", server.base_url)[1].splitlines()[1:] == ["llama"]


@pytest.mark.parametrize(
    ("text", "escape", "paths"),
    [
        (
            r"""C:\notes.txt 'D:\my files\b' "E:\my files\c" #1""",
            "",
            [r"C:\notes.txt", r"D:\my files\b", r"E:\my files\c", "#1"],
        ),
        (r"""my\ notes.txt 'a b' "c \" d" #1""", "\\", ["my notes.txt", "a b", 'c " d', "#1"]),
        ("", "", []),
    ],
    ids=["Windows", "elsewhere", "none"],
)
def test_paths_are_quoted_as_in_a_shell(text: str, escape: str, paths: list[str]) -> None:
    assert split_paths(text, escape) == paths


@pytest.mark.parametrize("escape", ["", "\\"])
def test_a_quotation_of_paths_has_an_end(escape: str) -> None:
    with pytest.raises(ValueError, match="closing"):
        split_paths("'a b", escape)
