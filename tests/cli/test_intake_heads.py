"""Files that are no text: one bad line each, and nothing of them is stored."""

import bz2
import gzip
import io
import json
import lzma
import os
import zipfile

import pytest

from orchestrator.intake.heads import HEAD_BYTES, peeked

TEXT = b'{"prompt": "Why?", "model": "m"}\n' * 300
ZSTD = b"\x28\xb5\x2f\xfd" + bytes(range(256))
MODES = [(), ("--lines",), ("--csv",)]
PACKED = {
    "gzip": (gzip.compress(TEXT), "gunzip -c"),
    "bzip2": (bz2.compress(TEXT), "bunzip2 -c"),
    "xz": (lzma.compress(TEXT), "xz -dc"),
    "zstd": (ZSTD, "zstd -dc"),
}


def workbook():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", "one\ntwo\n" * 100)
    return file.getvalue()


OTHERS = {
    "workbook": (workbook(), "is a workbook or zip: save it as CSV UTF-8, or unpack it"),
    "old workbook": (b"\xd0\xcf\x11\xe0\xa1\xb1\n\n" * 9, "is a workbook or a document: save it as CSV UTF-8"),
    "UTF-16": ("prompt\neins\nzwei\n".encode("utf-16"), "is UTF-16: save it as UTF-8"),
    "UTF-16 BE": ("\ufeffprompt\neins\n".encode("utf-16-be"), "is UTF-16: save it as UTF-8"),
    "UTF-32": ("prompt\neins\n".encode("utf-32"), "is UTF-32: save it as UTF-8"),
    "Parquet": (b"PAR1\x15\x04\x15\nx\nx\nPAR1", "is Parquet: save it as CSV or as JSON lines"),
    "PDF": (b"%PDF-1.7\nobj\nendobj\n", "is binary, not text: give JSON lines, CSV or plain text"),
    "PNG": (b"\x89PNG\r\n\x1a\nx\nx\nx\n", "is binary, not text: give JSON lines, CSV or plain text"),
    "ELF": (b"\x7fELF\x02\nx\nx\n", "is binary, not text: give JSON lines, CSV or plain text"),
}


@pytest.mark.parametrize("words", MODES)
@pytest.mark.parametrize("kind", PACKED)
def test_of_a_compressed_file_nothing_is_stored_and_the_way_to_unpack_it_is_told(command, queue, write, kind, words):
    content, unpack = PACKED[kind]
    said = command("enqueue", *words, write("a.x", content))
    pipe = f"{unpack} < a.x | orchestrator enqueue -"
    assert (said.code, said.err) == (
        1,
        f"a.x: is compressed with {kind}: run `{pipe}` with the same options\n",
    )
    assert said.out == "0 prompts enqueued, 0 skipped as duplicates, 1 bad line, from 1 file\n"
    assert queue.prompts() == []


@pytest.mark.parametrize("words", MODES)
@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("verb", ["enqueue", "validate"])
def test_what_is_no_text_is_one_bad_line(command, queue, write, verb, kind, words):
    content, told = OTHERS[kind]
    said = command(verb, *words, write("a", content))
    assert (said.code, said.err) == (1, f"a: {told}\n")
    assert "1 bad line, from 1 file" in said.out
    assert queue.prompts() == []


def test_the_way_to_unpack_is_that_of_the_command_and_of_its_file(command, write):
    said = command("validate", "--model", "m", write("my a.csv.gz", gzip.compress(TEXT)))
    pipe = "gunzip -c < 'my a.csv.gz' | orchestrator validate --csv -"
    assert said.err == f"my a.csv.gz: is compressed with gzip: run `{pipe}` with the same options\n"


def test_standard_input_is_looked_at_too(command, queue):
    said = command("enqueue", "--lines", "-", stdin=gzip.compress(TEXT))
    assert (said.code, said.err) == (1, "stdin: is compressed with gzip: unpack it with `gunzip -c` first\n")
    assert queue.prompts() == []


def test_the_other_files_go_in(command, queue, write):
    write("a.jsonl", gzip.compress(TEXT))
    assert command("enqueue", "a.jsonl", write("b.jsonl", TEXT)).code == 1
    assert len(queue.prompts()) == 300


ARRAY = json.dumps([{"prompt": "Why?", "model": "m"}] * 3)
ONE_BY_ONE = '[\n{"prompt": "a", "model": "m"},\n{"prompt": "b", "model": "m"}\n]\n'


@pytest.mark.parametrize("content", [ARRAY, ONE_BY_ONE, f"\ufeff\n \n  {ARRAY}", '[]\n{"prompt": "a", "model": "m"}\n'])
@pytest.mark.parametrize("words", [(), ("--template", "{prompt}")])
def test_of_a_json_array_nothing_is_stored(command, queue, write, words, content):
    said = command("enqueue", *words, write("a.json", content))
    told = "is a JSON array: write one object per line, as `jq -c '.[]' FILE` does"
    assert (said.code, said.err) == (1, f"a.json: {told}\n")
    assert queue.prompts() == []


@pytest.mark.parametrize("first", ["BZhang", "PAR1S", "%P", "PK", "\ufeffone", "(µ", "x", ""])
def test_a_text_may_begin_with_the_same_letters(command, queue, write, first):
    write("a.txt", f"{first}\ntwo\n")
    assert command("enqueue", "--lines", "--model", "m", "a.txt").code == 0
    assert [row["prompt"] for row in queue.prompts()][-1] == "two"


@pytest.mark.parametrize("size", [0, 1, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1, 200_000])
def test_looking_at_a_file_loses_nothing_of_it(size):
    content = os.urandom(size)
    head, file = peeked(io.BytesIO(content))
    assert head == content[:HEAD_BYTES]
    assert b"".join(file) == content


class Dripping(io.BytesIO):
    """A pipe from which each read takes one byte."""

    def readinto(self, buffer):
        return super().readinto(memoryview(buffer)[:1])


def test_the_first_bytes_are_waited_for():
    content = b"\x1f\x8b" * HEAD_BYTES
    head, file = peeked(io.BufferedReader(Dripping(content)))
    assert (head, file.read()) == (content[:HEAD_BYTES], content)
