"""Commands given anything: they do what was asked, or say in one clear line why not; never a traceback."""

import contextlib
import io
import json
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from effort import tried
from hypothesis import assume, example, given
from hypothesis import strategies as st

from orchestrator.cli import main
from orchestrator.config.sources import FIELDS, PROVIDER_FIELDS
from orchestrator.intake.heads import compression_of, no_text

MEMORY = Path("/dev/shm")
NOT_UTF_8 = os.fsdecode(b"a\xff\xfe")
LONGEST = 2100
CODES = (0, 1, 2)
"""What the commands tried here may end with (docs/commands.md)."""


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def errors(self):
        return self.err.splitlines()

    def is_one_error(self, code, *names):
        """Whether it is one line that names these."""
        return self.code == code and len(self.errors) == 1 and not self.out and all(name in self.err for name in names)


class Shell:
    """A folder with a queue, a file of prompts, and an environment, in which commands run in this process."""

    def __init__(self, folder):
        self.folder = folder
        self.environ = {}

    def run(self, *words, stdin=b""):
        """What a command says; whatever it is, it is said in good order."""
        out, err = io.BytesIO(), io.BytesIO()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environ.items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["orchestrator", *words])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            patch.setattr(sys, "stdout", io.TextIOWrapper(out, "utf-8", write_through=True))
            patch.setattr(sys, "stderr", io.TextIOWrapper(err, "utf-8", "backslashreplace", write_through=True))
            with pytest.raises(SystemExit) as ended:
                main()
            said = Said(ended.value.code, out.getvalue().decode(), err.getvalue().decode())
        check_manners(said)
        return said

    def write(self, name, content):
        (self.folder / name).write_bytes(content)
        return name

    def sql(self, statement, *values):
        with contextlib.closing(sqlite3.connect(self.folder / "orchestrator.db")) as connection:
            found = connection.execute(statement, values).fetchall()
            connection.commit()
            return found

    def prompts(self):
        return dict(self.sql("SELECT custom_id, prompt FROM prompts"))

    def end_all(self, status):
        self.sql("UPDATE prompt_states SET status = ?", status)


def check_manners(said):
    assert said.code in CODES
    assert all(line.isprintable() for line in said.err.split("\n"))
    assert "Traceback" not in said.err
    assert said.code == 0 or said.err
    if said.code == 2:
        assert said.err.startswith("orchestrator: ")
        assert said.err.count("\n") == 1


@contextlib.contextmanager
def opened(empty_queue):
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None) as folder:
        shutil.copyfile(empty_queue, Path(folder) / "orchestrator.db")
        yield Shell(Path(folder))


@pytest.fixture(autouse=True, scope="module")
def no_settings():
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("ORCHESTRATOR_"):
                patch.delenv(name)
        yield


@pytest.fixture
def shell(empty_queue):
    with opened(empty_queue) as shell:
        yield shell


# ---------------------------------------------------------------- files of prompts

MODES = ((), ("--csv",), ("--lines",), ("--template", "T: {text}"), ("--csv", "--template", "T: {text}"))
NASTY_CONTENTS = (
    b"", b"\n", b"\n\r\n \n\t\n", b"\0", b"\0\n\0", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b"\xff\xfe{\0}\0", b"\xff",
    b"\xed\xa0\x80", b"\r", b"\r\r\n", b'"', b'""', b'"\n', b'a"b', b'"a"b', b",", b",,,\n,,,", b"prompt", b"prompt\n",
    b"prompt,prompt\na,b", b"prompt,\xff\na,b", b"prompt\n\xff", b'prompt\n"', b'prompt\n"a\n',
    b"prompt,priority\na,1e3", b"prompt,priority\na," + b"9" * 5000, "prompt,priority\na,\u0661\u0662".encode(),
    b"prompt\n" + b"x" * 300_000,
    b"{}", b"{", b"[]", b"null", b"NaN", b"1e999", b'"x"', b'{"prompt":', b'{"prompt": NaN}', b'{"prompt": "\xff"}',
    b'{"prompt": "\\ud800"}', b'{"prompt": "\\u0000"}', b'{"prompt": "a", "prompt": "b"}', b'{"text": 1, "text": "b"}',
    b'{"prompt": "a"}{"prompt": "b"}', b"[" * 200_000, b'{"text":' * 200_000, b'{"body":' + b"[" * 200_000,
    b'{"text": ' + b"[" * 2000 + b"]" * 2000 + b"}", b'{"prompt": "' + b"x" * 300_000 + b'"}',
    b'{"prompt": "a", "priority": 9223372036854775808}', b'{"prompt": "a", "priority": 1.5}',
    b'{"prompt": "a", "custom_id": "\\u001b"}', b'{"prompt": "a", "custom_id": ""}', b'{"prompt": "a", "": 1}',
    b'{"prompt": "a", "not_before": "\\u0000"}', b'{"prompt": "a", "\\ud800": 1}', b'{"prompt": "a", "\x1b[2J": 1}',
    b'{"body": "{\\"a\\": \\"\\\\ud800\\"}"}', b'{"body": {"model": "\\ud800"}}', b'{"body": {}, "url": "\\u001b[2J"}',
    b'{"prompt": "a", "metadata": "["}', b'{"method": "\\n", "url": "x", "body": {}}', b'{"custom_id": 1, "text": "x"}',
    b'{"prompt": "a", "model": ""}', b'{"prompt": "a", "provider": "\\u001b"}', b'{"prompt": "a", "endpoint": "\\n"}',
)  # fmt: skip
contents = st.sampled_from(NASTY_CONTENTS) | st.binary(max_size=60)


def read_both_ways(shell, words, **given):
    """What `validate` and `enqueue` say of the same input; what `enqueue` finds bad, `validate` does too."""
    validated = shell.run("validate", "--json", *words, **given)
    enqueued = shell.run("enqueue", "--json", *words, **given)
    judged, stored = validated.json, enqueued.json
    assert judged["prompts"] + judged["bad_lines"] == judged["lines"]
    assert stored["enqueued"] + stored["bad_lines"] == judged["lines"]
    assert stored["bad_lines"] <= judged["bad_lines"]
    assert len(shell.prompts()) == stored["enqueued"]
    assert (validated.code, enqueued.code) == (bool(judged["bad_lines"]), bool(stored["bad_lines"]))
    name = "stdin" if words[-1] == "-" else words[-1]
    assert len(validated.errors) == judged["bad_lines"]
    assert all(re.match(rf"{name}(:\d+)?: .", line) for line in validated.errors)
    return judged, stored


@pytest.mark.parametrize("mode", MODES, ids=" ".join)
def test_every_nasty_content_is_stored_or_told_by_its_line(empty_queue, mode):
    for content in NASTY_CONTENTS:
        with opened(empty_queue) as shell:
            read_both_ways(shell, [*mode, shell.write("in.jsonl", content)])


@tried(10)
@given(st.sampled_from(MODES), contents)
def test_no_bytes_on_stdin_do_anything_but_be_stored_or_told(empty_queue, mode, content):
    with opened(empty_queue) as shell:
        read_both_ways(shell, [*mode, "-"], stdin=content)


def one_line(data):
    return b"\n" not in data and b"\r" not in data and b'"' not in data


json_lines = contents.filter(lambda data: b"\n" not in data and data.strip() and not data.startswith(b"\xef\xbb\xbf"))
records = contents.filter(lambda data: one_line(data) and data)


def mixed(good, bad):
    """Good lines, one by one between bad ones."""
    return b"\n".join(line for pair in zip(good, bad, strict=True) for line in pair) + b"\n"


@tried(10)
@given(st.lists(json_lines, min_size=1, max_size=4))
def test_good_rows_beside_any_lines_are_stored(empty_queue, bad):
    good = [b'{"custom_id": "good-%d", "prompt": "Why %d?", "model": "m"}' % (n, n) for n in range(len(bad))]
    with opened(empty_queue) as shell:
        judged, _ = read_both_ways(shell, [shell.write("in.jsonl", mixed(good, bad))])
        assert judged["lines"] == 2 * len(bad)
        assert {f"good-{n}": f"Why {n}?" for n in range(len(bad))}.items() <= shell.prompts().items()


@tried(10)
@given(st.lists(records, min_size=1, max_size=4))
def test_good_records_beside_any_others_are_stored(empty_queue, bad):
    good = [b"good-%d,Why %d?,m" % (n, n) for n in range(len(bad))]
    with opened(empty_queue) as shell:
        name = shell.write("in.csv", b"custom_id,prompt,model\n" + mixed(good, bad))
        judged, _ = read_both_ways(shell, [name])
        assert judged["lines"] == 2 * len(bad)
        assert {f"good-{n}": f"Why {n}?" for n in range(len(bad))}.items() <= shell.prompts().items()


@tried(10)
@given(st.lists(contents.filter(lambda data: b"\n" not in data), max_size=5))
@example([b"\xef\xbb\xbfx\r", b"\xef\xbb\xbfx"])
def test_each_line_of_text_is_a_prompt_as_it_stands_unless_it_is_not_utf_8(empty_queue, lines):
    assume(not any(lines) or (compression_of(lines[0]) or no_text(lines[0])) is None)
    with opened(empty_queue) as shell:
        read_both_ways(shell, ["--lines", shell.write("in.txt", b"\n".join(lines) + b"\n")])
        kept = [
            (line.removeprefix(b"\xef\xbb\xbf") if not number else line).removesuffix(b"\r")
            for number, line in enumerate(lines)
        ]
        assert sorted(shell.prompts().values()) == sorted(text for line in kept if (text := text_of(line)))


def text_of(line):
    """The text of a line; None where it is blank, not UTF-8, or holds a NUL, as lines of UTF-16 do."""
    with contextlib.suppress(UnicodeDecodeError):
        return line.decode() if line.strip() and b"\0" not in line else None


field_names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="{}\0"), min_size=1, max_size=9
).filter(lambda name: name != "custom_id")


@tried(10)
@given(st.dictionaries(field_names, st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=3))
def test_a_template_takes_fields_of_any_name_and_any_text(empty_queue, row):
    with opened(empty_queue) as shell:
        name = shell.write("in.jsonl", json.dumps(row).encode())
        words = ("--template", "{{" + "|".join(f"{{{field}}}" for field in row), name)
        read_both_ways(shell, words)
        assert [*shell.prompts().values()] == ["{" + "|".join(row.values())]


def test_a_whole_text_taken_for_a_header_is_told_at_once(shell):
    shell.write("in.csv", b"ab" * 16_000_000)
    began = time.process_time()
    assert shell.run("enqueue", "in.csv").err.startswith('in.csv:1: unknown column "abab')
    assert time.process_time() - began < 2


NASTY_TEMPLATES = (
    "", "x", "{", "}", "{}", "{{", "{{}}", "{a", "{a}}", "{{a}", "{\x1b[2J", "\n{", NOT_UTF_8, "{" * 2000, "{a}{",
)  # fmt: skip


@pytest.mark.parametrize("command", ["enqueue", "validate"])
def test_a_template_that_is_none_is_one_line(shell, command):
    name = shell.write("in.jsonl", b'{"text": "x"}')
    for template in NASTY_TEMPLATES:
        assert shell.run(command, "--template", template, name).is_one_error(2, "--template")


@pytest.mark.parametrize("command", ["enqueue", "validate"])
def test_a_file_that_is_none_is_one_line_which_names_it(shell, command):
    (shell.folder / "folder").mkdir()
    (shell.folder / "loop").symlink_to("loop")
    names = ("folder", "loop", "gone", "x" * 300, "x" * 5000, "", "gone\n\x1b[2J", NOT_UTF_8, "a/b", "in.jsonl/b")
    shell.write("in.jsonl", b'{"prompt": "x"}')
    for name in names:
        assert shell.run(command, "--lines", "--", name).is_one_error(2, "FILE")
    assert shell.prompts() == {}


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file that opens and cannot be read")
@pytest.mark.parametrize("mode", MODES[:3], ids=" ".join)
def test_a_file_that_breaks_while_it_is_read_is_one_line_and_what_stood_before_it_is_stored(shell, mode):
    shell.write("in.jsonl", b'{"prompt": "x"}\n' if not mode else b"prompt\nx\n")
    said = shell.run("validate", *mode, "/proc/self/mem")
    assert said.is_one_error(1, "/proc/self/mem: cannot be read:")
    assert shell.run("enqueue", *mode, "/proc/self/mem").is_one_error(1, "/proc/self/mem: cannot be read:", "no prompt")


@pytest.mark.parametrize("mode", MODES, ids=" ".join)
def test_a_file_without_an_end_of_its_own_is_an_empty_one(shell, mode):
    judged, stored = read_both_ways(shell, [*mode, "/dev/null"])
    assert (judged["lines"], stored["enqueued"]) == (0, 0)


def test_names_of_files_are_told_without_harm(shell):
    for name in ("a\nb", "\x1b[2J", NOT_UTF_8, "-", "'; DROP TABLE prompts", "x" * 250):
        path = f"./{name}"
        shell.write(name, b'{"prompt": "x", "model": "m"}\n{\n')
        assert len(shell.run("validate", path).errors) == 1
        assert shell.run("enqueue", "--json", path).json["enqueued"] == 1
        shell.write(name, b'{"prompt": "x", "model": "m"}\n')
        assert shell.run("enqueue", "--json", "--resume", path).json["skipped"] == 1


# ---------------------------------------------------------------- words on the command line

NASTY_WORDS = (
    "", "\n", "\x1b[2J\x1b]0;x\x07", "\u2028", NOT_UTF_8, "'; DROP TABLE prompts; --", "' OR 1=1 --", "%",
    "x" * 100_000, "-1", "0", "99999999999999999999", "9" * 5000, "\u00b2", "\u0661", "nan", "inf", "a/../b", "[red]",
    "done\n", "DONE",
)  # fmt: skip
TAKERS = {
    "results": ("--tag", "--status", "-o"),
    "failures": ("--tag",),
    "retry": ("--tag", "--fault", "--custom-id"),
    "cancel": ("--tag", "--custom-id"),
    "batches": ("--limit", "--"),
    "status": ("--interval",),
    "enqueue": ("--window", "--provider", "--endpoint", "--priority", "--model", "--tag", "--prompt"),
    "validate": ("--window", "--model"),
}
words = st.sampled_from(NASTY_WORDS) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@pytest.mark.parametrize(("command", "option"), [(name, option) for name in TAKERS for option in TAKERS[name]])
def test_an_option_takes_any_word_or_refuses_it_in_one_line(shell, command, option):
    shell.write("in.jsonl", b'{"prompt": "x", "model": "m"}\n')
    more = ["in.jsonl"] if command == "validate" or (command == "enqueue" and option != "--prompt") else []
    for word in NASTY_WORDS:
        said = shell.run(command, *more, option, word)
        assert said.code != 1 or len(said.errors) == 1
        assert len(said.err) < LONGEST
    assert shell.sql("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("command", [*TAKERS, "run", "check", "config", "migrate"])
def test_any_word_that_no_command_knows_is_one_line(shell, command):
    for word in ("--\x1b[2J", "--" + "x" * 100_000, f"--{NOT_UTF_8}", "--no\nsuch", "-\u00b2", "--=", "--json=1"):
        assert shell.run(command, word).code == 2
        assert shell.run(word).code == 2
    for word in NASTY_WORDS:
        assert shell.run("--", word).code == 2


@tried(12)
@given(st.sampled_from(["retry", "cancel", "results"]), st.lists(words, min_size=1, max_size=4), st.data())
def test_a_selector_selects_what_it_names_and_nothing_else(empty_queue, command, tags, data):
    tags = [tag for tag in tags if tag and tag != NOT_UTF_8]
    with opened(empty_queue) as shell:
        for tag in (*tags, None):
            shell.sql("INSERT INTO prompts (custom_id, prompt, tag) VALUES (hex(randomblob(8)), 'x', ?)", tag)
        shell.end_all("failed" if command == "retry" else "queued")
        chosen = data.draw(st.sampled_from(tags)) if tags else "nothing"
        said = shell.run(command, f"--tag={chosen}", "--json")
        assert said.code == 0
        if command == "results":
            found = [json.loads(line)["tag"] for line in said.out.split("\n") if line]
        else:
            end = "queued" if command == "retry" else "cancelled"
            rows = "SELECT tag FROM prompts p JOIN prompt_states s ON s.prompt_id = p.id WHERE s.status = ?"
            found = [tag for (tag,) in shell.sql(rows, end)]
        assert found == [tag for tag in tags if tag == chosen]


def test_an_error_that_repeats_a_long_text_is_short_and_ends_in_its_remedy(shell):
    said = shell.run("batches", "Why? " * 20_000)
    assert said.is_one_error(1, "no batch Why?", "…", "`orchestrator batches` lists them")
    assert len(said.err) < LONGEST
    said = shell.run("retry", "--custom-id", "x" * 100_000)
    assert said.err.endswith("x…: no prompt has this custom_id\n")
    assert len(said.err) < LONGEST


def test_where_results_went_is_told_without_harm(shell):
    assert shell.run("results", "-o", "a\n\x1b[2J").err == "0 results written to a\\n\\u001b[2J\n"
    assert (shell.folder / "a\n\x1b[2J").exists()


# ---------------------------------------------------------------- settings

NASTY_SETTINGS = (
    b"", b"\xff", b"\0", b"\xef\xbb\xbf", b"[", b"[database]\nurl = 1", b"[database]\nurl = '\x1b[2J'", b"a" * 100_000,
    b"[database]\nurl = " + b"[" * 50_000, b"[" + b"a." * 2_000 + b"a]", b"[database]\nurl = '" + b"x" * 99_999 + b"'",
    b"\r", b"[database]\r", b"x = 1e999\n", b"x = 1979-05-27\n", b"[[database]]\n", b"[providers]\nx = 1\n",
    b"[providers.'\\u001b']\n", b'[providers."\\u0000"]\n', b"[database]\nurl = '''\n\n", b"=",
)  # fmt: skip
NASTY_URLS = (
    "", " ", "sqlite://", "sqlite:///", "sqlite:////", "sqlite:///:memory:", "sqlite:////dev/null", "sqlite:////proc/x/y",
    "sqlite:////dev/full/x.db", "sqlite:///" + "x" * 300, "sqlite:///" + "d/" * 300, "sqlite:///\x1b[2J.db", "sqlite:///.",
    "sqlite:///a?b=c", "sqlite:///file:x?mode=ro", "sqlite:///%00", "sqlite:///\ufeff", "sqlite:///a\nb", "sqlite:x",
    "sqlite+pysqlite:///x.db", "sqlite://host/x.db", "SQLITE:///x.db", "mysql://localhost/x", "x://", "://",
    "postgresql", "postgresql://", "postgresql:///x?host=/nowhere", "postgresql://127.0.0.1:1/x", "postgresql://127.0.0.1:99999/x",
    "postgresql://127.0.0.1:x/x", "postgresql://[::bad/x", "postgresql://127.0.0.1:1/x?sslmode=sideways",
    "postgresql://127.0.0.1:1/x?nonsense=1", "postgresql://u:\x1b@127.0.0.1:1/x", "postgresql+psycopg2://127.0.0.1:1/x",
    "postgresql://127.0.0.1:1/" + "x" * 900, "postgresql://127.0.0.1:1/x?connect_timeout=abc", NOT_UTF_8,
)  # fmt: skip
VARIABLES = (
    *(f"ORCHESTRATOR_{key.upper().replace('.', '__')}" for key in FIELDS if key != "database.url"),
    *(f"ORCHESTRATOR_PROVIDERS__OPENAI__{key.upper()}" for key in PROVIDER_FIELDS),
    "ORCHESTRATOR_CONFIG", "ORCHESTRATOR_PROVIDERS__\x1b__PROFILE", "ORCHESTRATOR_X__Y", f"ORCHESTRATOR_{NOT_UTF_8}__X",
    "ORCHESTRATOR_DATABASE_URL", "ORCHESTRATOR___", "ORCHESTRATOR_",
)  # fmt: skip


def read_settings(shell, *words):
    for command in (["config"], ["status"], ["enqueue", "--prompt", "x", "--model", "m"]):
        said = shell.run(*words, *command)
        assert said.code == 0 or len(said.errors) == 1
        assert len(said.err) < LONGEST


def test_every_nasty_settings_file_is_taken_or_refused_in_one_line(shell):
    for content in NASTY_SETTINGS:
        shell.write("orchestrator.toml", content)
        read_settings(shell)


def test_a_settings_file_that_is_none_is_one_line_which_names_it(shell):
    (shell.folder / "folder").mkdir()
    for name in ("folder", "gone", "gone\n\x1b[2J", NOT_UTF_8, "x" * 300, "", "/proc/self/mem"):
        assert shell.run("--config", name, "status").code == 2
    for name in ("folder", "gone", "gone\n\x1b[2J", NOT_UTF_8, "x" * 300, "/proc/self/mem"):
        shell.environ = {"ORCHESTRATOR_CONFIG": name}
        assert shell.run("status").is_one_error(2, "ORCHESTRATOR_CONFIG")


@pytest.mark.parametrize("url", NASTY_URLS)
def test_every_nasty_address_of_a_database_is_opened_or_refused_in_one_line(shell, url):
    shell.environ = {"ORCHESTRATOR_DATABASE__URL": url}
    read_settings(shell)


@tried(10)
@given(st.dictionaries(st.sampled_from(VARIABLES), words, min_size=1, max_size=3))
def test_no_environment_does_anything_but_set_or_be_refused_in_one_line(empty_queue, environ):
    with opened(empty_queue) as shell:
        shell.environ = environ
        read_settings(shell)


@pytest.mark.parametrize("command", [("status",), ("enqueue", "--prompt", "x")], ids=" ".join)
def test_a_path_of_the_database_that_the_system_refuses_is_one_line_which_names_the_setting(shell, command):
    shell.environ = {"ORCHESTRATOR_DATABASE__URL": f"sqlite:///{'x' * 300}"}
    assert shell.run(*command).is_one_error(1, "x: File name too long: check the path in database.url")


@pytest.mark.parametrize("name", ["a%20b.db", "a%00.db", "a b.db", "a+b.db", "a@b:1.db", "%"])
def test_the_path_of_the_database_is_taken_as_it_stands(shell, name):
    shell.environ = {"ORCHESTRATOR_DATABASE__URL": f"sqlite:///{name}"}
    assert shell.run("migrate").code == 0
    assert (shell.folder / name).exists()
    assert shell.run("status", "--json").json["database"] == f"sqlite:///{name}"
