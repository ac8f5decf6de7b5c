"""`ropewalk text`."""

import json
import signal
import time

import pytest


def test_it_tells_lengths_duplicates_and_overlap(ropewalk, model, books, shelf):
    ended = ropewalk("text", "describe", books, shelf, "--against", books, "--model", model)
    assert ended.code == 0
    assert ended.err_lines == [f"Reading {books}, {books}, {shelf}."]
    assert "16 documents" in ended.out
    assert "shortest" in ended.out
    assert "Near-duplicates: " in ended.out
    assert f"stand in {books} too" in ended.out
    assert "100%" in ended.out


def test_json_is_on_stdout_alone(ropewalk, model, books):
    ended = ropewalk("text", "describe", books, "--model", model, "--json")
    document = json.loads(ended.out)
    assert document["num_documents"] == 4
    assert document["texts"] == [str(books)]
    assert sum(bucket["num_tokens"] for bucket in document["records"]) == document["num_tokens"]
    assert document["lengths"]["0"] < document["lengths"]["0.5"] <= document["lengths"]["1"]
    assert document["num_stretches"] is None
    # The books differ in a number a line: most stretches of five words are alike.
    assert all(pair["similarity"] >= 0.8 for pair in document["near_duplicates"])


def test_the_library_means_its_training_part_and_its_held_out_part(ropewalk):
    ended = ropewalk("text", "describe", "stdlib", "--against", "stdlib", "--num-documents", "5", "--json")
    document = json.loads(ended.out)
    assert document["num_documents"] == 5
    assert document["num_shared_stretches"] < 0.05 * document["num_stretches"]
    held_out = ropewalk(
        "text", "describe", "stdlib:held-out", "--against", "stdlib", "--num-documents", "5", "--json"
    )
    document = json.loads(held_out.out)
    assert document["num_shared_stretches"] == document["num_stretches"] > 1000


def test_chats_are_read_as_their_contents(ropewalk, model, tmp_path):
    chat = {"messages": [{"role": "user", "content": "a rope?"}, {"role": "assistant", "content": "strands"}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(chat) + "\n")
    ended = ropewalk("text", "describe", tmp_path / "a.jsonl", "--kind", "chat", "--model", model, "--json")
    assert json.loads(ended.out)["num_documents"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument"),
        (["nowhere.txt"], "does not exist"),
        (["{books}", "--against", "nowhere.txt"], "does not exist"),
        (["{books}", "--model", "no/such/model/at/all"], "does not exist"),
        (["{books}", "--kind", "song"], "song"),
        (["{books}", "--kind", "chat"], "gives no chat"),
        (["{books}", "--num-documents", "0"], "num-documents"),
        (["{books}/book-0.txt", "--join", "folder"], "has no folder"),
        (["stdlib:tests"], "no part of the library"),
    ],
)
def test_wrong_input_is_one_line(ropewalk, model, books, arguments, said):
    given = [argument.format(books=books) for argument in arguments]
    ended = ropewalk("text", "describe", "--model", model, *given)
    assert ended.code == 2
    assert ended.out == ""
    lines = [line for line in ended.err_lines if not line.startswith("Reading")]
    assert len(lines) == 1
    assert said in lines[0]


def test_ctrl_c_says_that_nothing_was_written(start):
    process = start("text", "describe", "stdlib", "stdlib", "stdlib", "stdlib")
    assert process.stderr.readline().startswith("Reading")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Nothing was written." in err
    assert out == ""
