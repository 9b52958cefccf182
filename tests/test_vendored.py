"""A copy of the package under another name works, where `llmkit` itself is not allowed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import llmkit

SCRIPT = """
import importlib, pathlib, pickle, sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "llmkit":
            raise ImportError("llmkit is not allowed here")

sys.meta_path.insert(0, Forbidden())
from acme._vendor import language_models as lm

folder = pathlib.Path(lm.__file__).parent
for path in sorted(folder.rglob("*.py")):
    parts = [part for part in path.relative_to(folder).with_suffix("").parts if part != "__init__"]
    if parts and parts[-1] not in ("_unasync", "__main__"):
        importlib.import_module(".".join([lm.__name__, *parts]))

httpx = importlib.import_module(lm.__name__ + '.http_library').httpx

EVENTS = b'data: {"id":"1","choices":[{"delta":{"content":"Hel"}}]}\\n\\n' \\
    b'data: {"choices":[{"delta":{"content":"lo"},"finish_reason":"stop"}]}\\n\\ndata: [DONE]\\n\\n'

def answer(request):
    if b'"stream":true' in request.content:
        return httpx.Response(200, content=EVENTS)
    if b"wrong" in request.content:
        return httpx.Response(400, json={"error": {"message": "no", "code": "bad"}})
    message = {"role": "assistant", "content": "Hello"}
    return httpx.Response(200, json={"id": "1", "choices": [{"message": message, "finish_reason": "stop"}]})

client = httpx.Client(transport=httpx.MockTransport(answer))
provider = lm.create_sync_llm_provider("openai", model_name="gpt-4o", api_key="k", http_client=client)
print(provider.execute("Hi").content)
print(list(provider.stream("Hi")))
try:
    provider.execute("wrong")
except lm.LLMProviderBadRequestError as error:
    again = pickle.loads(pickle.dumps(error))
    print(type(again).__module__, again)
print(provider.estimate_tokens("Hello") > 0, [name for name in sys.modules if name.split(".")[0] == "llmkit"])
"""


def test_a_copy_under_another_name_works(tmp_path: Path) -> None:
    target = tmp_path / "acme" / "_vendor" / "language_models"
    shutil.copytree(Path(llmkit.__file__).parent, target, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "acme" / "__init__.py").touch()
    (tmp_path / "acme" / "_vendor" / "__init__.py").touch()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "Hello",
        "['Hel', 'lo']",
        "acme._vendor.language_models.errors openai: the service answered 400 bad: no",
        "True []",
    ]
