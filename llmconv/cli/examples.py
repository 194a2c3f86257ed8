"""Commands that `--help` shows below the options of each command. Every one is real: it can be typed as it stands."""

from __future__ import annotations

# of `llmconv --help`
FIRST = (
    "llmconv demo",
    "llmconv convert -m ./Qwen2.5-0.5B-Instruct -s 512 -q w4bf16 -o qwen",
    "llmconv verify qwen",
)

# by command
EXAMPLES: dict[str, tuple[str, ...]] = {
    "convert": (
        "llmconv convert -m ./Qwen2.5-0.5B-Instruct -s 512 -q w4bf16 -o qwen",
        "llmconv convert -m Qwen/Qwen2.5-VL-3B-Instruct -s 2048 -c bm1688 -n 4",
        "llmconv convert -m ./Qwen3-0.6B -s 512 -o qwen3 --task compile:block_0",
    ),
    "plan": (
        "llmconv plan -m ./Qwen2.5-7B-Instruct -s 8192 -q w4bf16",
        "llmconv plan -m ./Qwen2.5-7B-Instruct -q w4bf16 --fit 12G",
        "llmconv plan -m Qwen/Qwen2.5-7B-Instruct -s 4096 --json",
    ),
    "quality": (
        "llmconv quality -m ./Qwen2.5-0.5B-Instruct",
        "llmconv quality -m ./Qwen2.5-0.5B-Instruct -q w4bf16 --size 520MB",
        "llmconv quality -m ./Qwen3-0.6B --text notes.txt --tokens 4096 --json",
    ),
    "build": (
        "llmconv build jobs.toml",
        "llmconv build jobs.toml --continue -n 4",
        "llmconv build jobs.toml --dry_run",
    ),
    "verify": (
        "llmconv verify qwen",
        "llmconv verify qwen --nets block_0,lm_head --seed 7",
        "llmconv verify qwen --full --max-loss 0.15 --json",
    ),
    "why": ("llmconv why qwen", "llmconv why qwen block_0", "llmconv why qwen merge --json"),
    "inspect": ("llmconv inspect qwen", "llmconv inspect other.bmodel --json"),
    "graph": (
        "llmconv graph qwen",
        "llmconv graph -m ./Qwen2.5-0.5B-Instruct -s 512 --to graph.dot",
    ),
    "run": (
        'llmconv run qwen "What is a compiler?" --max_tokens 32',
        'llmconv run qwen_vl "What is this?" --image cat.jpg',
        'llmconv run qwen "Once upon a time" --do_sample --seed 7',
    ),
    "chat": ("llmconv chat qwen", 'llmconv chat qwen --system "Answer in one word." --on simulator'),
    "bench": ("llmconv bench qwen", "llmconv bench qwen_bm1684x qwen_bm1688", "llmconv bench qwen --json"),
    "diff": ("llmconv diff qwen qwen_old", "llmconv diff ours.bmodel theirs.bmodel --json"),
    "clean": ("llmconv clean qwen", "llmconv clean qwen --dry-run"),
    "gc": ("llmconv gc --dry-run", "llmconv gc --max-size 5G"),
    "doctor": ("llmconv doctor", "llmconv doctor ./Qwen2.5-0.5B-Instruct", "llmconv doctor --json"),
    "completion": ("llmconv completion bash", "llmconv completion zsh"),
    "demo": ("llmconv demo", "llmconv demo /tmp/demo"),
}
