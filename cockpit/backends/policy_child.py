"""The child process of `EmbeddedRego` and `EmbeddedEngine`: a request on standard input, an answer on output.

It runs with a clean environment and bounds of its own: a policy can see neither the cockpit's environment nor
its files, and can be killed at the deadline.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

_CPU_SECONDS = 30


def decide(request: dict[str, Any]) -> dict[str, Any]:
    """Evaluate each of `rules` over `modules` and `input`; return those defined, or an error text."""
    from regopy import Interpreter

    rego = Interpreter()
    rego.strict_built_in_errors = True
    for name, source in request["modules"]:
        rego.add_module(name, source)
    # As a term of JSON text: the dict form of the binding mistreats quotes, NUL and large integers.
    rego.set_input_term(json.dumps(request["input"], ensure_ascii=False))
    value = {}
    for rule in request["rules"]:
        # One rule a query: a package queried whole also shows its helpers, which may repeat the input.
        output = rego.query(f"x := data.{request['package']}.{rule}")
        if not output.ok():
            return {"error": str(output)[:2000]}
        results = output.results
        if len(results) == 1 and "x" in results[0].bindings:
            value[rule] = results[0].bindings["x"]
    return {"value": value}


def decide_all(request: dict[str, Any]) -> dict[str, Any]:
    """Evaluate `rule` over each of `inputs`: `{"result": …}`, or `{}` where undefined, as OPA answers."""
    from regopy import Interpreter

    rego = Interpreter()
    rego.strict_built_in_errors = True
    for name, source in request["modules"]:
        rego.add_module(name, source)
    # Built once: a question then takes less than a millisecond instead of twenty.
    bundle = rego.build(f"x := {request['rule']}", [])
    answers: list[dict[str, Any]] = []
    for number, one in enumerate(request["inputs"]):
        rego.set_input_term(json.dumps(one, ensure_ascii=False))
        output = rego.query_bundle(bundle)
        if not output.ok():
            return {"error": f"question {number + 1}: {output}"[:2000]}
        results = output.results
        defined = len(results) == 1 and "x" in results[0].bindings
        answers.append({"result": results[0].bindings["x"]} if defined else {})
    return {"answers": answers}


def main() -> int:
    """Answer one request."""
    # No bound on address space: the engine's allocator reserves far more than it ever uses.
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    request = json.loads(sys.stdin.buffer.read())
    # The engine writes parse errors to standard output, where only the answer belongs.
    answers = os.dup(1)
    os.dup2(2, 1)
    try:
        answer = decide_all(request) if "inputs" in request else decide(request)
    except Exception as error:  # noqa: BLE001 - whatever the engine raises is an answer: not a decision
        answer = {"error": f"{type(error).__name__}: {error}"[:2000]}
    with os.fdopen(answers, "wb") as out:
        out.write(json.dumps(answer, ensure_ascii=False).encode("utf-8", "backslashreplace"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
