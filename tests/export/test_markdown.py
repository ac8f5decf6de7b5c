"""Text of other people in Markdown: no link, table cell, HTML, end of a code block, or local folder."""

import pytest
import yaml

from ropewalk.export.markdown import (
    Markdown,
    escape,
    escape_prose,
    public_name,
    python_literal,
    render_markdown,
    shell_word,
    table_row,
    yaml_block,
)

EVIL = "a|b <script>[x](y)\n# `rm` $z ```"


def test_a_template_escapes_every_value_that_is_not_markdown(tmp_path):
    template = tmp_path / "page.md.jinja"
    template.write_text("{{ plain }} {{ ready }} {{ [plain, ready] | row }} {{ plain | upper }}")
    text = render_markdown(template, plain="<b>", ready=Markdown("<i>"))
    assert text == r"\<b\> <i> | \<b\> | <i> | \<B\>"


def test_a_variable_that_is_missing_is_a_defect(tmp_path):
    template = tmp_path / "page.md.jinja"
    template.write_text("{{ name }}")
    with pytest.raises(Exception, match="undefined"):
        render_markdown(template)


def test_escaped_text_is_one_line_of_plain_text():
    assert escape(EVIL) == r"a\|b \<script\>\[x\]\(y\) \# \`rm\` \$z \`\`\`"
    assert escape("a\u202eb\x1b[0m") == r"ab\[0m"
    assert len(escape("x" * 10_000)) < 400


def test_a_row_has_as_many_cells_as_given():
    assert table_row(["a|b", Markdown("`c`")]) == r"| a\|b | `c` |"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("`--flag <n>` (by default)", r"`--flag <n>` \(by default\)"),
        ("use `a|b`: <i>", r"use `a\|b`: \<i\>"),
        ("a `<script> of others", r"a \`\<script\> of others"),
        ("one ` and `<b>`", r"one `and`\<b\>\`"),
        ("`<script>` of others", "`<script>` of others"),  # shown as it stands, inside a code span
    ],
)
def test_prose_keeps_its_code_spans_alone(text, shown):
    assert escape_prose(text) == shown


@pytest.mark.parametrize("text", [EVIL, "it's", "-x; rm"])
def test_code_can_not_end_its_block_or_its_literal(text):
    for code in (python_literal(text), shell_word(text)):
        assert "`" not in code
        assert "\n" not in code
    assert shell_word("a; rm -r b") == "'a; rm -r b'"
    assert python_literal("a'b") == '"a\'b"'


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("scale-model", "scale-model"),
        ("owner/name", "owner/name"),
        ("owner/name:config@train", "owner/name:config@train"),
        ("stdlib:held-out", "stdlib:held-out"),
        ("package.module:Strategy", "package.module:Strategy"),
        ("https://a.example/b", "https://a.example/b"),
        ("/home/me/books", "books"),
        ("/home/me/my books/one.txt", "one.txt"),
        ("~/models/mine", "mine"),
        ("../models/mine", "mine"),
        ("./mine", "mine"),
        ("books/*.txt", "*.txt"),
        (r"C:\Users\me\mine", "mine"),
        ("train it with /home/me/train.py --data=/data/books", "train it with train.py --data=books"),
        ("short and/or long", "short and/or long"),
    ],
)
def test_a_name_has_no_folders(given, shown):
    assert public_name(given) == shown


def test_a_local_folder_that_looks_like_a_hub_name_is_a_local_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert public_name("owner/name") == "owner/name"
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert public_name("owner/name") == "name"


def test_values_in_yaml_stay_inside_their_block():
    values = {"model": {"name": "/home/me/mine"}, "notes": [f"---\n```\n{EVIL}", 3, None], "8x": True}
    block = yaml_block(values)
    assert all(line.startswith("    ") or not line for line in block.split("\n"))
    assert yaml.safe_load(block) == {**values, "model": {"name": "mine"}}
