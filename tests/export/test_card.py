"""The model card: valid front matter, every value escaped, no local path, and the sentence that is true."""

import yaml
from huggingface_hub import ModelCard

from ropewalk.evaluate.records import EvalRecord
from ropewalk.export import Dropped, EngineNote, Served
from ropewalk.export.card import Card, Origin, make_card, write_card
from ropewalk.export.fold import Folded
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import Provenance
from ropewalk.rope.schemes import scheme_factors

GEOMETRY = RopeGeometry(head_dim=8, rotary_dim=8, rope_theta=100.0, original_length=64, num_layers=2)
LONG = scheme_factors("yarn", GEOMETRY, 256)
EVIL = "a|b <script>[x](y)\n---\n```\n# heading `code` $z"
RECIPE = {"model": {"name": "/home/me/base"}, "text": {"search": "/data/books/*.txt"}, "stages": {}}


def card(**changes):
    engines = (
        EngineNote(engine="vllm", is_served=True, what="`--max-model-len 256`"),
        EngineNote(engine="sglang", is_served=False, what="wrong"),
    )
    given = {"title": "mine", "model": "owner/base", "revision": None, "engines": engines}
    served = Served.of(FactorSet.of([LONG]), "pinned")
    return Card(**{**given, "served": served, **changes})


def section(text, title):
    """What follows a heading, up to the next one."""
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_its_front_matter_names_a_base_model_on_the_hub(tmp_path, monkeypatch):
    write_card(tmp_path, card())
    saved = ModelCard.load(tmp_path / "README.md")
    assert saved.data.to_dict() == {
        "base_model": "owner/base", "library_name": "transformers", "tags": ["ropewalk", "longrope"],
    }  # fmt: skip
    assert make_card(card(model="/home/owner/base")).data.base_model is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "base").mkdir(parents=True)
    assert make_card(card()).data.base_model is None


def test_every_text_of_others_is_escaped():
    factors = LONG.replace(
        provenance=Provenance(
            model=EVIL, strategy=EVIL, objective=EVIL, versions={EVIL: EVIL}, settings={"budget": EVIL}
        )
    )
    record = EvalRecord(
        metric="perplexity", value=1.0, length=64, factors=EVIL, n=1, seconds=1.0, model=EVIL, source=EVIL,
        note=EVIL, documents="report", mode="truncate", low=None, high=None,
    )  # fmt: skip
    text = str(
        make_card(
            card(
                title=EVIL, model=EVIL, revision=EVIL, served=Served.of(FactorSet.of([factors]), "pinned"),
                engines=(EngineNote(engine=EVIL, is_served=True, what=EVIL),),
                dropped=(Dropped(what=EVIL, cost=EVIL),), records=(record,),
                adapter={"name": EVIL, "as": "beside", "base": EVIL}, origin=Origin(base_model=EVIL),
            )
        )
    )  # fmt: skip
    body = text.split("\n---\n", 1)[1]
    fences = [line for line in body.splitlines() if line.startswith("```")]
    assert fences == ["```"] * 4  # of the two blocks of code
    plain = "".join(body.split("```")[::2])
    assert "<script>" not in plain
    assert "[x](" not in plain
    assert "\n---" not in plain
    assert "\n# heading" not in plain
    rows = [line.replace(r"\|", "") for line in plain.splitlines() if line.startswith("| ")]
    assert {row.count("|") for row in rows} == {3, 4}  # two or three cells


def test_no_local_path_is_shown():
    record = EvalRecord(
        metric="perplexity", value=1.0, length=64, factors="mine", n=1, seconds=1.0, model="/home/me/mine",
        source="/data/books", documents="report", mode="truncate", low=None, high=None,
    )  # fmt: skip
    served = Served.of(FactorSet.of([LONG.replace(provenance=Provenance(model="/home/me/base"))]), "pinned")
    text = str(
        make_card(
            card(
                model="/home/me/tuned", served=served, records=(record,), is_tuned=True,
                origin=Origin(base_model="/home/me/base", recipe=RECIPE, tuned_weights="ff"),
                dropped=(Dropped(what="one", cost="perplexity 1 -> 2, documents of /data/books"),),
                adapter={"name": "/home/me/adapter", "as": "beside", "base": "/home/me/base"},
            )
        )
    )  # fmt: skip
    assert "/home" not in text
    assert "/data" not in text
    made = section(text, "How it was made")
    assert yaml.safe_load(made[made.index("    ") :]) == {
        "model": {"name": "base"}, "text": {"search": "*.txt"}, "stages": {},
    }  # fmt: skip


def heading(**changes):
    return str(make_card(card(**changes))).split("## Results")[0]


def test_what_it_says_about_the_weights(tmp_path):
    recipe = Origin(base_model="owner/base", recipe=RECIPE, tuned_weights="ff")
    folded = Folded(ours=1.1, engine=1.05, logit_difference=1e-6)
    merged = {"name": "style", "as": "merged", "base": "owner/base"}
    assert "unchanged" in heading()
    assert "no weights" in heading(model=str(tmp_path))
    assert "trained from owner/base" in heading(origin=recipe, is_tuned=True)
    assert "not the weights" in heading(origin=recipe)
    assert "query weights" in heading(folded=folded)
    assert "adapter style is merged" in heading(adapter=merged)
    assert "`adapter`" in heading(adapter={**merged, "as": "beside"})
    changed = [heading(origin=recipe, is_tuned=True), heading(folded=folded), heading(adapter=merged)]
    assert not [text for text in changed if "unchanged" in text or "no weights" in text]


def test_it_has_launch_lines_for_the_engines_that_serve_it():
    lines = section(str(make_card(card())), "Serving").split("```")[1].split("\n")
    assert lines == ["", "vllm serve ./mine --max-model-len 256", ""]


def test_switching_factors_are_both_described():
    short = scheme_factors("ntk:factor=1.5", GEOMETRY, 64)
    served = Served.of(FactorSet.of([short, LONG]), "switching")
    text = str(make_card(card(served=served)))
    assert "--max-model-len 64" in text
    made = section(text, "Where the factors come from")
    assert [line for line in made.splitlines() if line.endswith("factors:")] == [
        "The short factors:",
        "The long factors:",
    ]
