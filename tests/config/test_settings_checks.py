import pytest
from variables import variable, variables

from orchestrator.config import Config, Defaults, Web, load
from orchestrator.config.checks import problems


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///orchestrator.db", "orchestrator.db"),
        ("sqlite:////data/queue.db", "/data/queue.db"),
        ("sqlite:///a folder/ä.db", "a folder/ä.db"),
    ],
)
def test_a_plain_sqlite_url_names_its_file(url, path):
    assert str(load(None, variables({"database.url": url})).config.database.path) == path


@pytest.mark.parametrize(
    ("url", "rest"),
    [
        ("", 'must be "sqlite:///FILE"'),
        ("queue.db", 'must be "sqlite:///FILE"'),
        ("mysql://host/db", 'must be "sqlite:///FILE"'),
        ("sqlite:/queue.db", 'must be "sqlite:///FILE"'),
        ("sqlite://", "must name a file"),
        ("sqlite:///", "must name a file"),
        ("sqlite:////", "must name a file"),
        ("sqlite://queue.db", "must name a file"),
        ("sqlite:///folder/", "must name a file"),
        ("sqlite:///:memory:", "must name a file that outlives the daemon"),
        ("sqlite:///file:x", "must name a file that outlives the daemon"),
        ("sqlite:///x.db?mode=ro", "must be a plain path"),
        ("sqlite:///x.db#y", "must be a plain path"),
        ("sqlite:///x\n.db", "must be a plain path"),
        ("sqlite+aiosqlite:///x.db", 'must not name a driver; write "sqlite:///FILE"'),
        ("postgresql+asyncpg://me:secret@host/db", "must not name a driver; write"),
        ("postgres://me:secret@host/db", 'or "postgresql://USER@HOST/DATABASE"'),
        ("postgresql://me:secret@host", 'must be "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"'),
        ("postgresql://me:secret@host:x/db", 'must be "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"'),
        ("postgresql://me:sec#ret@host/db", 'must be "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"'),
    ],
)
def test_any_other_database_is_refused_and_its_url_not_shown(url, rest, refusal):
    line = refusal(load, None, variables({"database.url": url}))
    assert line.startswith("ORCHESTRATOR_DATABASE__URL: database.url ")
    assert rest in line
    assert "secret" not in line


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@host/db",
        "postgresql://host:5433/db?sslmode=verify-full",
        "postgresql:///db?host=/run/postgresql&options=-csearch_path%3Dmine",
    ],
)
def test_an_address_of_postgresql_is_taken_as_psql_takes_it(url):
    assert load(None, variables({"database.url": url})).config.database.url == url


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ("polling.min_seconds", "polling.max_seconds"),
        ("retry.base_seconds", "retry.max_seconds"),
        ("submission.pause_seconds", "submission.pause_max_seconds"),
    ],
)
def test_a_least_above_its_most_is_refused_where_the_user_wrote_it(low, high, refusal):
    assert load(None, variables({low: "20", high: "20"}))
    line = refusal(load, None, variables({high: "20"}))
    assert line.startswith(f"{variable(high)}: {low} (")
    assert f"must not be above {high} (20); lower the first or raise the second" in line


def test_fractions_of_a_second_are_welcome():
    config = load(None, variables({"polling.min_seconds": "0.05", "polling.max_seconds": "0.1"})).config
    assert (config.polling.min_seconds, config.polling.max_seconds) == (0.05, 0.1)


@pytest.mark.parametrize(
    ("changed", "rest"),
    [
        ({"defaults.provider": "groq"}, 'defaults.provider must be one of "doubleword", "openai"'),
        (
            {"defaults.endpoint": "/v1/rerank"},
            'defaults.endpoint must be one of what provider doubleword offers: "/v1/chat/completions", ',
        ),
        (
            {"defaults.completion_window": "7d"},
            'defaults.completion_window must be one of what provider doubleword offers: "24h"',
        ),
        ({"defaults.completion_window": "1h", "defaults.provider": "openai"}, 'what provider openai offers: "24h"'),
        ({"providers.doubleword.completion_windows": "1h"}, "defaults.completion_window must be one of"),
        ({"providers.doubleword.endpoints": "/v1/embeddings"}, "defaults.endpoint must be one of"),
        ({"defaults.model": " m"}, "defaults.model must be a model's name"),
        ({"defaults.model": "m\x00"}, "defaults.model must be a model's name"),
        ({"defaults.model": "m" * 257}, "defaults.model must be a model's name"),
    ],
)
def test_defaults_must_suit_the_default_provider(changed, rest, refusal):
    line = refusal(load, None, variables(changed))
    assert line.partition(": ")[0] in variables(changed)
    assert rest in line


def test_a_model_name_may_be_as_long_as_allowed():
    assert load(None, variables({"defaults.model": "m" * 256})).config.defaults.model == "m" * 256


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:3001/ai/v1",
        "https://api.example.com/v1/",
        "https://[::1]:8443/v1//",
        "https://api.example.com",
    ],
)
def test_a_base_url_loses_its_trailing_slash(url):
    config = load(None, variables({"providers.doubleword.base_url": url})).config
    assert config.providers["doubleword"].base_url == url.rstrip("/")


@pytest.mark.parametrize(
    ("url", "rest"),
    [
        ("", "must be an http(s) address"),
        ("api.example.com/v1", "must be an http(s) address"),
        ("ftp://api.example.com/v1", "must be an http(s) address"),
        ("https://", "must be an http(s) address"),
        ("https:///v1", "must be an http(s) address"),
        ("https://host:port/v1", "must be an http(s) address"),
        ("https://host:0/v1", "must be an http(s) address"),
        ("https://host:99999/v1", "must be an http(s) address"),
        ("https://[::1/v1", "must be an http(s) address"),
        ("https://host /v1", "must be an http(s) address"),
        ("https://host/v1\n", "must be an http(s) address"),
        ("https://höst/v1", "must be an http(s) address"),
        ("https://me:secret@host/v1", "must hold no user or password"),
        ("https://secret@host/v1", "must hold no user or password"),
        ("https://host/v1?key=secret", 'must end with its path, without "?" or "#"'),
        ("https://host/v1?", 'must end with its path, without "?" or "#"'),
        ("https://host/v1#secret", 'must end with its path, without "?" or "#"'),
    ],
)
def test_any_other_base_url_is_refused_and_not_shown(url, rest, refusal):
    line = refusal(load, None, variables({"providers.doubleword.base_url": url}))
    assert line.startswith(f"ORCHESTRATOR_PROVIDERS__DOUBLEWORD__BASE_URL: providers.doubleword.base_url {rest}")
    assert "secret" not in line


def test_a_line_that_no_file_could_hold_is_refused(refusal):
    line = refusal(load, None, variables({"providers.doubleword.max_file_bytes": "2048"}))
    assert line.startswith(
        "ORCHESTRATOR_PROVIDERS__DOUBLEWORD__MAX_FILE_BYTES: providers.doubleword.max_line_bytes must not be above "
    )
    limits = {"providers.doubleword.max_file_bytes": "2048", "providers.doubleword.max_line_bytes": "2048"}
    assert load(None, variables(limits)).config.providers["doubleword"].max_line_bytes == 2048


def test_a_provider_without_any_source_of_its_key_is_refused(refusal):
    line = refusal(load, None, variables({"providers.openai.api_key_env": ""}))
    assert line.startswith(
        "ORCHESTRATOR_PROVIDERS__OPENAI__API_KEY_ENV: providers.openai.api_key_env and "
        "providers.openai.api_key_file are both empty"
    )
    assert load(None, variables({"providers.openai.api_key_env": "", "providers.openai.api_key_file": "key"}))


def test_defaults_on_their_own_have_no_problem():
    assert not list(problems(Config()))


def test_every_problem_is_told_not_only_the_first():
    config = Config(defaults=Defaults(provider="groq"), web=Web(listen="h:1"))
    assert [problem.keys[0] for problem in problems(config)] == ["defaults.provider", "web.listen"]


@pytest.mark.parametrize("listen", ["127.0.0.1:8080", "127.9.9.9:0", "localhost:1", "[::1]:65535"])
def test_the_page_of_this_machine_needs_no_token(listen):
    web = load(None, variables({"web.listen": listen})).config.web
    assert web.token() is None
    host, port = web.address()
    assert listen in (f"{host}:{port}", f"[{host}]:{port}")


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:8080", "[::]:8080", "10.0.0.1:80", "queue.example:80", "localhost.example:1"]
)
def test_a_page_for_other_machines_needs_a_token(listen, refusal):
    assert refusal(load, None, variables({"web.listen": listen})) == (
        "ORCHESTRATOR_WEB__LISTEN: web.listen lets other machines in: name the variable of a token in web.token_env, "
        "or listen on 127.0.0.1"
    )
    assert load(None, variables({"web.listen": listen, "web.token_env": "TOKEN"}))


@pytest.mark.parametrize(
    "listen",
    [":8080", "8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:x", "::1:80", "[::1]", "[]:1", "[::g]:1",
     "http://127.0.0.1:80", "127.0.0.1:80/", "a b:1", "-:1", "\u00e4:1", "127.0.0.1:80\n"],
)  # fmt: skip
def test_any_other_form_of_an_address_is_refused(listen, refusal):
    line = refusal(load, None, variables({"web.listen": listen, "web.token_env": "TOKEN"}))
    assert line.startswith('ORCHESTRATOR_WEB__LISTEN: web.listen must be HOST:PORT, such as "127.0.0.1:8080"')


@pytest.mark.parametrize("token", [None, "", "x" * 15, " " * 20, "x" * 15 + "\u00fc", "x" * 15 + "\n\nx"])
def test_a_token_that_protects_nothing_is_refused_and_not_shown(token, refusal):
    web = Web(listen="127.0.0.1:1", token_env="TOKEN")
    line = refusal(web.token, {} if token is None else {"TOKEN": token})
    assert line.startswith("TOKEN: holds no token")
    assert "x" * 15 not in line


def test_a_token_is_taken_without_the_blanks_around_it():
    assert Web(token_env="TOKEN").token({"TOKEN": " of-sixteen-chars\n"}) == "of-sixteen-chars"
