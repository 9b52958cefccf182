"""CPU from the start of a process to its first token, of imports, of providers: `python benchmarks/startup.py`.

Each figure is the CPU, user and system, of a Python process of its own, which ends at the moment in question. The
scripts are blocking and ask a server in another process on another core, over http and over https with certifi's
certificates and the server's own. Byte code is there: it goes to a folder of its own in a first turn.
Peers that are not installed are left out: `pip install anthropic litellm openai`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]  # a checkout need not be installed

from _report import Report, installed, prepare_client
from _server import serve

__all__ = ["main"]

OURS = "llmkit"
HAND = "httpx by hand"
BARE = "nothing"
SCRIPTS = {
    BARE: "",
    HAND: """
import json, os
import httpx
with httpx.Client(timeout=60) as client:
    question = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    headers = {"authorization": "Bearer sk-x"}
    with client.stream("POST", os.environ["URL"] + "/chat/completions", json=question, headers=headers) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                text = json.loads(line[6:])["choices"][0]["delta"].get("content")
                if text:
                    break
""",
    OURS: """
import os
from llmkit import create_sync_llm_provider
llm = create_sync_llm_provider("openai", model_name="gpt-5-mini", api_key="sk-x", base_url=os.environ["URL"])
for text in llm.stream("Hi"):
    break
""",
    "openai": """
import os
from openai import OpenAI
client = OpenAI(api_key="sk-x", base_url=os.environ["URL"])
question = [{"role": "user", "content": "Hi"}]
for chunk in client.chat.completions.create(model="gpt-5-mini", messages=question, stream=True):
    text = chunk.choices[0].delta.content
    if text:
        break
""",
    "anthropic": """
import os
from anthropic import Anthropic
client = Anthropic(api_key="sk-x", base_url=os.environ["URL"].removesuffix("/v1"))
question = [{"role": "user", "content": "Hi"}]
for event in client.messages.create(model="claude-sonnet-4-5", max_tokens=99, messages=question, stream=True):
    if event.type == "content_block_delta":
        text = event.delta.text
        break
""",
    "litellm": """
import os
import litellm
question = [{"role": "user", "content": "Hi"}]
base_url = os.environ["URL"]
for chunk in litellm.completion("openai/gpt-5-mini", question, stream=True, api_base=base_url, api_key="sk-x"):
    text = chunk.choices[0].delta.content
    if text:
        break
""",
}
# Whether the script came to its end; what the interpreter does after it is no part of any figure.
END = "\nimport os\nassert {condition}\nos._exit(0)\n"
IMPORTS = {
    BARE: "",
    "httpx and a model": "import httpx, pydantic\nclass Answer(pydantic.BaseModel):\n    text: str\n",
    "import llmkit": "import llmkit\n",
    "llmkit's factory": "from llmkit import create_sync_llm_provider\n",
}
PROVIDERS = """
import gc, os, ssl, time
from llmkit import create_sync_llm_provider
def make():
    return create_sync_llm_provider("openai", model_name="gpt-5-mini", api_key="sk-x", base_url=os.environ["URL"])
def pages():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) if os.path.exists("/proc/self/statm") else 0
first = make()
before = pages()
started = time.process_time()
providers = [make() for _ in range(1000)]
seconds = time.process_time() - started
kilobytes = (pages() - before) * 4
for provider in providers[::100]:
    for text in provider.stream("Hi"):
        break
contexts = sum(isinstance(found, ssl.SSLContext) for found in gc.get_objects())
print(seconds, kilobytes / 1000, contexts)
"""
ANOTHER_CLIENT = {
    "httpx.Client": "import httpx\nmake = httpx.Client\n",
    "openai.OpenAI": "import openai\nmake = lambda: openai.OpenAI(api_key='sk-x')\n",
}
SECOND = """
import time
first = make()
started = time.process_time()
second = make()
print(time.process_time() - started)
"""


def milliseconds(script: str, environment: Mapping[str, str]) -> float:
    """Return the CPU of a process that runs `script`."""
    process = subprocess.Popen([sys.executable, "-P", "-W", "ignore", "-c", script], env=dict(environment))
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise AssertionError(f"a script failed:\n{script}")
    return (usage.ru_utime + usage.ru_stime) * 1000


def in_turns(scripts: Mapping[str, str], environment: Mapping[str, str], rounds: int) -> dict[str, list[float]]:
    """Return the samples of each script; a first turn, which may have to write byte code, does not count."""
    samples: dict[str, list[float]] = {name: [] for name in scripts}
    for number in range(rounds + 1):
        for name, script in scripts.items():
            spent = milliseconds(script, environment)
            if number:
                samples[name].append(spent)
    return samples


def ratio(samples: Mapping[str, list[float]], name: str, to: str, without: str | None = None) -> float:
    """Return the median of the ratios, round by round, with the cost of `without` taken off both."""
    less = samples[without] if without else [0.0] * len(samples[name])
    pairs = zip(samples[name], samples[to], less, strict=True)
    return statistics.median((ours - idle) / (theirs - idle) for ours, theirs, idle in pairs)


def output(script: str, environment: Mapping[str, str]) -> list[float]:
    command = [sys.executable, "-P", "-W", "ignore", "-c", script]
    run = subprocess.run(command, env=dict(environment), check=True, capture_output=True, text=True)
    return [float(word) for word in run.stdout.split()]


@contextmanager
def certificate() -> Iterator[tuple[str, str]]:
    """Yield the server's certificate with its key, and certifi's bundle with the authority that signed it."""
    import certifi
    import trustme

    with tempfile.TemporaryDirectory() as folder:
        authority = trustme.CA()
        chain, bundle = Path(folder) / "server.pem", Path(folder) / "authorities.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(chain))
        bundle.write_bytes(Path(certifi.where()).read_bytes() + authority.cert_pem.bytes())
        yield str(chain), str(bundle)


def environment(cache: str, url: str = "", bundle: str | None = None) -> dict[str, str]:
    """Return a child's environment: this process's, without proxies and settings of Python and the clients."""
    left_out = ("_proxy", "_PROXY", "PYTHON", "LLMKIT_", "OPENAI_", "ANTHROPIC_", "LITELLM_", "SSL_CERT")
    kept = {name: value for name, value in os.environ.items() if not any(part in name for part in left_out)}
    own = {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONPYCACHEPREFIX": cache, "URL": url}
    return {**kept, **own, **({"SSL_CERT_FILE": bundle} if bundle else {})}


def first_token(
    report: Report, address: str, settings: Mapping[str, str], rounds: int, peers: bool
) -> list[tuple[str, float, float]]:
    """Print what a cold script costs to its first token; return the goals."""
    names = [name for name in SCRIPTS if name in (BARE, HAND, OURS) or (peers and installed(name))]
    scripts = {name: SCRIPTS[name] + END.format(condition="text" if SCRIPTS[name] else True) for name in names}
    samples = in_turns(scripts, settings, rounds)
    scheme = address.partition(":")[0]
    rows = [
        (name, f"{statistics.median(times):.0f}", f"{ratio(samples, name, HAND):.2f}")
        for name, times in samples.items()
    ]
    report.table(f"From the start of a script to its first token, over {scheme}:", ["script", "CPU ms", "ratio"], rows)
    return [(f"{OURS} / {HAND}, {scheme}", ratio(samples, OURS, HAND), 0.95)]


def imports(report: Report, settings: Mapping[str, str], rounds: int) -> list[tuple[str, float, float]]:
    """Print what imports cost, without the interpreter's own start; return the goals."""
    scripts = {name: script + END.format(condition=True) for name, script in IMPORTS.items()}
    samples = in_turns(scripts, settings, rounds)
    base = "httpx and a model"
    rows = [
        (
            name,
            f"{statistics.median(one - idle for one, idle in zip(times, samples[BARE], strict=True)):.1f}",
            f"{ratio(samples, name, base, BARE):.2f}",
        )
        for name, times in samples.items()
        if name != BARE
    ]
    report.table("Imports, less the start of the interpreter:", ["what", "CPU ms", "ratio"], rows)
    return [("import llmkit / httpx and a model", ratio(samples, "import llmkit", base, BARE), 0.15)]


def providers(report: Report, settings: Mapping[str, str], rounds: int) -> list[tuple[str, float, float]]:
    """Print what further providers cost; return the goals."""
    runs = [output(PROVIDERS, settings) for _ in range(rounds)]
    each, grown, contexts = (statistics.median(figures) for figures in zip(*runs, strict=True))
    rows = [("llmkit's provider", f"{each:.3f}")]
    for name, script in ANOTHER_CLIENT.items():
        if installed(name.partition(".")[0]):
            spent = statistics.median(output(script + SECOND, settings)[0] for _ in range(rounds))
            rows.append((name, f"{spent * 1000:.3f}"))
    report.table("One more provider, or client, in a process that has one:", ["what", "CPU ms"], rows)
    report.say(
        f"1,000 providers more take {grown:.1f} KiB each; when ten of them have asked over https, "
        f"the process has made {contexts:.0f} TLS context.\n"
    )
    return [("one more provider, ms", each, 0.5), ("TLS contexts of 1,000 providers", contexts, 1)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and no other libraries")
    quick = parser.parse_args().quick
    prepare_client()
    report = Report("Start", ["httpx", "pydantic", "openai", "anthropic", "litellm", "certifi"])
    rounds = 3 if quick else 9
    goals = []
    with tempfile.TemporaryDirectory() as cache:
        with serve() as address:
            settings = environment(cache, f"{address}/every-100/20/v1")
            goals += first_token(report, address, settings, rounds, peers=not quick)
        with certificate() as (chain, bundle), serve(chain) as address:
            settings = environment(cache, f"{address}/every-100/20/v1", bundle)
            goals += first_token(report, address, settings, rounds, peers=not quick)
            goals += providers(report, settings, 1 if quick else 3)
        goals += imports(report, environment(cache), rounds)
    report.goals(goals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
