"""Models and tokenizers small enough for every test: random, seeded, built in memory."""

from pathlib import Path
from typing import Any

import hypothesis
import pytest
from engines import why_skipped
from tiny import make_tiny_model
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from ropewalk.models.scale_model import scale_model_path
from ropewalk.text.stdlib import stdlib_folder

# The running interpreter's library, and those of others that are here: Debian's has no full test suite.
LIBRARIES = sorted({stdlib_folder(), *(file.parent for file in Path("/usr/lib").glob("python3.*/os.py"))})


# How long an example takes is the machine's affair, and asserted nowhere.
hypothesis.settings.register_profile("ropewalk", deadline=None)
hypothesis.settings.load_profile("ropewalk")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `engine` are skipped where the environment of that engine is missing."""
    for item in items:
        for marker in item.iter_markers("engine"):
            if reason := why_skipped(*marker.args):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("ROPEWALK_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A token a byte (no merges), opening with BOS when special tokens are asked for."""
    vocabulary = {"<s>": 0, "</s>": 1}
    for character in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[character] = len(vocabulary)
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


@pytest.fixture
def tiny_model(tiny_tokenizer: Any) -> LlamaForCausalLM:
    """A random Llama with a window of 64 tokens; weights are large enough that context changes its logits."""
    return make_tiny_model(tiny_tokenizer)


@pytest.fixture
def tiny_model_folder(tiny_model: LlamaForCausalLM, tiny_tokenizer: Any, tmp_path: Path) -> Path:
    """The two saved where `load_model` can read them."""
    folder = tmp_path / "tiny-model"
    tiny_model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def scale_tokenizer() -> Any:
    """The bundled model's own tokenizer."""
    return AutoTokenizer.from_pretrained(scale_model_path())


@pytest.fixture(params=LIBRARIES, ids=str)
def library(request: pytest.FixtureRequest) -> Path:
    """Each Python standard library on this machine."""
    folder: Path = request.param
    return folder
