"""What the compiler's results depend on at a machine: a worker of a cluster with another one is refused."""

from __future__ import annotations

from llmconv.toolchain.fetch import obtain


def passport() -> dict[str, str]:
    """{what: version}. The compiler is fetched first where there is none."""
    tools = obtain()
    return {"compiler": f"{tools.version} {tools.digest[:16]}"}
