"""Completions servers of tiny models, and their verification."""

from completions_server import CompletionsServer

from ropewalk.verify.completions import CompletionsClient, make_prompt
from ropewalk.verify.endpoint import LIMIT, verify_endpoint

TEXT = "def tab(x): return 12 + x  # and more of it, line by line\n" * 20
LENGTHS = [20, 64, 65, 200]


def prompts_of(loaded):
    ids = loaded.tokenizer(TEXT, add_special_tokens=False).input_ids
    return [make_prompt(loaded.tokenizer, ids, length) for length in LENGTHS]


def failed(verification):
    return sorted({check.what for check in verification.checks if not check.is_right})


def verified_server(
    loaded, served, prompts, factors, fault="", context=256, on_progress=None, limit=LIMIT, **how
):
    with CompletionsServer(loaded.name, factors, fault, **how).running() as url:
        return verify_endpoint(
            "export",
            served,
            context,
            loaded,
            CompletionsClient(url),
            prompts,
            limit=limit,
            on_progress=on_progress,
        )
