from pathlib import Path

import pytest
from msgspec.structs import replace
from variables import variable, variables

from orchestrator.config import Config, Database, effective, load
from orchestrator.config.profiles import BUILT_IN
from orchestrator.config.sources import FIELDS, PROVIDER_FIELDS

KEYS = [*FIELDS, *(f"providers.{name}.{key}" for name in BUILT_IN for key in PROVIDER_FIELDS)]
FIXED = {  # accepted at one value only
    "providers.doubleword.profile": "openai",
    "providers.openai.profile": "doubleword",
}
OTHER_TEXT = {
    "database.url": "sqlite:////data/queue.db",
    "defaults.provider": "openai",
    "defaults.model": "Qwen/Qwen3.5-35B-A3B-FP8",
    "defaults.endpoint": "/v1/embeddings",
    "defaults.completion_window": "1h",
    "web.listen": "127.0.0.1:8080",
    "web.token_env": "TOKEN",
    "retention.remote_files": "delete",
    "log.level": "debug",
    "log.format": "json",
    "base_url": "http://127.0.0.1:3001/ai/v1",
    "api_key_env": "ANOTHER_KEY",
    "api_key_file": "/run/credentials/key",
    "completion_windows": "24h,7d",
    "endpoints": "/v1/chat/completions,/v1/rerank",
    "resume_parameter": "after",
}


def other(key: str, default: object) -> str:
    if key in FIXED:
        return FIXED[key]
    if isinstance(default, bool):
        return str(not default).lower()
    if isinstance(default, int | float):
        return str(default - 1 if default else 1)
    return OTHER_TEXT.get(key) or OTHER_TEXT[key.rpartition(".")[2]]


def value_of(config: Config, key: str) -> object:
    table, _, name = key.rpartition(".")
    return getattr(config.providers[table[10:]] if table.startswith("providers.") else getattr(config, table), name)


def test_without_any_source_every_setting_is_its_default():
    loaded = load(None, {})
    assert loaded.config == Config()
    assert set(loaded.origins) == set(KEYS)
    assert set(loaded.origins.values()) == {"default"}


@pytest.mark.parametrize("key", [key for key in KEYS if key not in FIXED])
def test_every_setting_can_be_set_by_its_variable(key):
    words = other(key, value_of(Config(), key))
    loaded = load(None, {variable(key): words})
    value = value_of(loaded.config, key)
    assert value != value_of(Config(), key)
    assert words.split(",") == list(value) if isinstance(value, tuple) else str(value).lower() == words.lower()
    assert [name for name, origin in loaded.origins.items() if origin != "default"] == [key]
    assert loaded.origins[key] == f"environment {variable(key)}"


@pytest.mark.parametrize("key", FIXED)
def test_settings_of_what_is_not_built_are_refused_at_any_other_value(key, refusal):
    line = refusal(load, None, {variable(key): FIXED[key]})
    assert line.startswith(f"{variable(key)}: {key} must be ")


def test_environment_goes_before_file(write):
    path = write("[polling]\nmin_seconds = 1\nmax_seconds = 41\n[retry]\nmax_attempts = 3\n")
    loaded = load(path, {"ORCHESTRATOR_POLLING__MAX_SECONDS": "42"})
    assert (loaded.config.polling.min_seconds, loaded.config.polling.max_seconds) == (1, 42)
    assert loaded.origins["polling.min_seconds"] == f"file {path}"
    assert loaded.origins["polling.max_seconds"] == "environment ORCHESTRATOR_POLLING__MAX_SECONDS"
    assert loaded.origins["retry.max_attempts"] == f"file {path}"


def test_the_file_is_the_named_one_then_the_working_folders_then_the_variables(write):
    named, in_variable = write("[log]\nlevel = 'error'\n", "named.toml"), write("[log]\nlevel = 'debug'\n", "v.toml")
    environ = {"ORCHESTRATOR_CONFIG": str(in_variable)}
    assert load(None, {}).config.log.level == "info"
    assert load(None, environ).config.log.level == "debug"
    write("[log]\nlevel = 'warning'\n", "orchestrator.toml")
    assert load(None, environ).config.log.level == "warning"
    assert load(named, environ).config.log.level == "error"


def test_an_empty_config_variable_names_no_file():
    assert load(None, {"ORCHESTRATOR_CONFIG": ""}).config == Config()


def test_a_named_file_that_is_missing_is_refused(refusal, tmp_path):
    assert refusal(load, Path("absent.toml"), {}).startswith("absent.toml: settings cannot be read: No such file")
    assert "absent.toml: settings" in refusal(load, None, {"ORCHESTRATOR_CONFIG": "absent.toml"})
    assert "settings cannot be read" in refusal(load, tmp_path, {})
    assert "not a usable path" in refusal(load, Path("nul\0.toml"), {})


def test_a_dangling_link_is_not_taken_for_an_absent_file(refusal):
    Path("orchestrator.toml").symlink_to("nowhere.toml")
    assert "orchestrator.toml: settings cannot be read" in refusal(load, None, {})


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    path = tmp_path / "bom.toml"
    path.write_bytes(b"\xef\xbb\xbf[log]\nlevel = 'error'\n")
    assert load(path, {}).config.log.level == "error"


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("[log]\nlevel = \n", "settings.toml:2: is not valid TOML: "),
        ("[log]\n\n\n[log", "settings.toml:4: is not valid TOML: "),
        ("[log]\n[log]\n", "settings.toml:2: is not valid TOML: settings of log stand above already; "),
        ("log.level = 'info'\n[log]\n", "settings.toml:2: is not valid TOML: settings of log stand above already; "),
        (
            "providers.openai.max_lines = 5\n[log]\n[providers.openai]\n",
            "settings.toml:3: is not valid TOML: settings of providers.openai stand above already; put all",
        ),
        ("[log]\nlevel = 'info'\nlevel = 'info'\n", "settings.toml:3: is not valid TOML: the same key stands above"),
        ("a = " + "[" * 5000, "settings.toml:1: is not valid TOML: nested too deeply"),
        ("a = " + "9" * 5000, "settings.toml:1: is not valid TOML: "),
    ],
)
def test_a_toml_mistake_names_file_and_line(text, start, write, refusal):
    write(text)
    assert refusal(load, Path("settings.toml"), {}).startswith(start)


def test_a_file_that_is_not_utf8_is_refused(tmp_path, refusal):
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# caf\xe9\n")
    assert "is not UTF-8 text" in refusal(load, path, {})


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("[polling]\nmin_second = 5", 'polling.min_second is not a setting; did you mean "polling.min_seconds"?'),
        ("[poling]\nmin_seconds = 5", 'poling is not a table of settings; did you mean "polling"?'),
        ("heartbeat_seconds = 5", 'is not a table of settings; did you mean "log.heartbeat_seconds"?'),
        (
            "[retry]\nheartbeat_seconds = 5",
            'retry.heartbeat_seconds is not a setting; did you mean "log.heartbeat_seco',
        ),
        ("[log]\nqqq = 5", "log.qqq is not a setting; remove it"),
        ("url = 'x.db'", 'url is not a table of settings; did you mean "database.url"?'),
        ("[providers]\nbase_url = 'http://h/v1'", "providers.base_url must be a table"),
        ("[log]\n'größe' = 5", "log.größe is not a setting"),
        (f"[log]\n{'x' * 5000} = 5", "xxx… is not a setting"),
        ("polling = 5", "polling must be a table; write [polling]"),
        ("[[polling]]\nmin_seconds = 5", "polling must be a table; write [polling]"),
        ("providers = 5", "providers must be a table; write [providers.NAME]"),
        ("[providers]\ndoubleword = 5", "providers.doubleword must be a table; write [providers.doubleword]"),
        ("[providers.'a b']\nprofile = 'openai'", "providers.a b is no provider's name"),
        ("[providers.openai]\nmax_line = 5", 'is not a setting; did you mean "providers.openai.max_lines"?'),
        ("[providers.openai]\nname = 'x'", "providers.openai.name is not a setting"),
        ("[log]\n'a b' = 5", "log.a b is not a setting"),
        ('[log]\n"a\\nb" = 5', "log.a\\nb is not a setting"),
        ("[log]\nlevel = 'loud'", 'log.level must be one of "debug", "info", "warning", "error"'),
        ("[log]\nlevel = 3", "log.level must be one of"),
        ("[retry]\nmax_attempts = 0", "retry.max_attempts must be a whole number of attempts from 1 to 100"),
        ("[retry]\nmax_attempts = 2.5", "retry.max_attempts must be a whole number"),
        ("[retry]\nmax_attempts = true", "retry.max_attempts must be a whole number"),
        ("[retry]\nmax_attempts = '5'", "retry.max_attempts must be a whole number"),
        ("[retry]\nmax_seconds = nan", "retry.max_seconds must be a number of seconds from 0 to 604_800"),
        ("[retry]\nmax_seconds = inf", "retry.max_seconds must be a number of seconds"),
        (f"[retry]\nmax_seconds = 0x{'f' * 6000}", "retry.max_seconds must be a number of seconds"),
        (f"[retry]\nmax_attempts = 0x{'f' * 6000}", "retry.max_attempts must be a whole number"),
        ("[retry]\nmax_seconds = 1979-05-27", "retry.max_seconds must be a number of seconds"),
        ("[database]\nurl = 1979-05-27", "database.url must be sqlite:///FILE"),
        ("[defaults]\nmodel = 7", "defaults.model must be a model's name, or empty"),
        ("[providers.openai]\nmix_models = 'true'", "providers.openai.mix_models must be true or false"),
        ("[providers.openai]\nmix_models = 1", "providers.openai.mix_models must be true or false"),
        ("[providers.openai]\nendpoints = []", "endpoints must be a list of paths such as /v1/embeddings"),
        ("[providers.openai]\nendpoints = ['chat']", "endpoints must be a list of paths such as /v1/embeddings"),
        ("[providers.openai]\nendpoints = '/v1/chat'", "endpoints must be a list of paths"),
        (
            "[providers.openai]\ncompletion_windows = ['24 h']",
            "completion_windows must be a list of windows such as 24h",
        ),
    ],
)
def test_a_mistake_in_the_file_names_file_key_and_remedy(text, rest, write, refusal):
    path = write(text)
    line = refusal(load, path, {})
    assert line.startswith(f"{path}: ")
    assert rest in line


@pytest.mark.parametrize(
    ("name", "words", "rest"),
    [
        ("POLLING__MIN_SECOND", "5", "names no setting; did you mean ORCHESTRATOR_POLLING__MIN_SECONDS?"),
        ("polling__min_seconds", "5", "names no setting; did you mean ORCHESTRATOR_POLLING__MIN_SECONDS?"),
        ("POLLING_MIN_SECONDS", "5", "names no setting; write two underscores: ORCHESTRATOR_POLLING__MIN_SECONDS"),
        ("QQ__ZZ", "5", "names no setting; unset it"),
        ("PROVIDERS__Lab__PROFILE", "openai", "names no setting; "),
        ("CONFIG__", "5", "names no setting; "),
        ("PROVIDERS__BASE_URL", "5", "names no setting; "),
        ("POLLING__MIN_SECONDS", "", "polling.min_seconds must be a number of seconds from 0.01 to 86_400"),
        ("POLLING__MIN_SECONDS", "soon", "polling.min_seconds must be a number of seconds"),
        ("POLLING__MIN_SECONDS", "nan", "polling.min_seconds must be a number of seconds"),
        ("POLLING__MIN_SECONDS", "1e999", "polling.min_seconds must be a number of seconds"),
        ("PACKING__MAX_LINES", "9" * 5000, "packing.max_lines must be a whole number of lines"),
        ("PROVIDERS__OPENAI__MIX_MODELS", "maybe", "providers.openai.mix_models must be true or false"),
        ("PROVIDERS__OPENAI__ENDPOINTS", " , ", "providers.openai.endpoints must be a list of paths"),
        ("PROVIDERS__OPENAI__NAME", "x", "names no setting; "),
        ("PROVIDERS__OPENAI__API_KEY_FILE", "\udcff", "providers.openai.api_key_file must be a path"),
        ("PROVIDERS____PROFILE", "openai", "providers..profile is not a setting"),
        ("PROVIDERS__DOUBLEWRD__MAX_LINES", "5", '(or did you mean provider "doubleword"?)'),
    ],
)
def test_a_mistake_in_the_environment_names_variable_and_remedy(name, words, rest, refusal):
    line = refusal(load, None, {f"ORCHESTRATOR_{name}": words})
    assert line.startswith(f"ORCHESTRATOR_{name}: ")
    assert rest in line


@pytest.mark.parametrize("name", ["ORCHESTRATOR_SERVICE_HOST", "ORCHESTRATOR_PORT_8080_TCP_ADDR", "PATH", "X__Y"])
def test_variables_of_other_programs_are_let_be(name):
    assert load(None, {name: "10.0.0.1"}).config == Config()


@pytest.mark.parametrize(("words", "value"), [("yes", True), (" ON\n", True), ("1", True), ("no", False), ("0", False)])
def test_the_environment_may_spell_truth_as_people_do(words, value):
    loaded = load(None, {"ORCHESTRATOR_PROVIDERS__OPENAI__MIX_MODELS": words})
    assert loaded.config.providers["openai"].mix_models is value


def test_the_environment_may_write_numbers_levels_and_lists_as_people_do():
    environ = {
        "ORCHESTRATOR_PACKING__MAX_LINES": " 10_000 ",
        "ORCHESTRATOR_LOG__LEVEL": " DEBUG ",
        "ORCHESTRATOR_PROVIDERS__OPENAI__COMPLETION_WINDOWS": "24h, 7d, ",
    }
    config = load(None, environ).config
    assert config.packing.max_lines == 10_000
    assert config.log.level == "debug"
    assert config.providers["openai"].completion_windows == ("24h", "7d")


def test_empty_text_means_none_where_a_setting_may_be_absent(write):
    path = write("[defaults]\nmodel = ''\n[providers.doubleword]\nresume_parameter = ''\napi_key_file = ''\n")
    config = load(path, {}).config
    assert config.defaults.model is None
    assert config.providers["doubleword"].resume_parameter is None
    assert config.providers["doubleword"].api_key_file is None


def test_effective_settings_tell_value_and_origin_and_never_a_key(write):
    path = write("[polling]\nmin_seconds = 5\nmax_seconds = 60.5\n[defaults]\nmodel = 'm'\n")
    environ = {"DOUBLEWORD_API_KEY": "sk-secret", "OPENAI_API_KEY": " "}
    settings = {setting.key: setting for setting in effective(load(path, environ), environ)}
    assert list(settings)[:2] == ["database.url", "providers.doubleword.profile"]
    assert set(settings) == set(KEYS)
    assert (settings["polling.min_seconds"].value, settings["polling.min_seconds"].origin) == (5, f"file {path}")
    assert repr(settings["polling.min_seconds"].value) == "5"
    assert settings["polling.max_seconds"].value == 60.5
    assert settings["defaults.model"].value == "m"
    assert settings["retry.max_attempts"].origin == "default"
    assert settings["providers.openai.completion_windows"].value == ["24h"]
    assert settings["providers.doubleword.api_key_env"].value == "DOUBLEWORD_API_KEY (set)"
    assert settings["providers.openai.api_key_env"].value == "OPENAI_API_KEY (not set)"
    assert settings["providers.doubleword.mix_models"].value is True
    assert settings["providers.openai.resume_parameter"].value is None
    assert "sk-secret" not in repr(settings)


def test_effective_reads_the_processs_environment_unless_told_otherwise(monkeypatch):
    monkeypatch.setenv("DOUBLEWORD_API_KEY", "sk-secret")
    values = [setting.value for setting in effective(load(None, {}))]
    assert "DOUBLEWORD_API_KEY (set)" in values


def test_effective_hides_the_password_of_a_database():
    loaded = load(None, {})
    loaded = replace(loaded, config=replace(loaded.config, database=Database(url="postgresql://me:secret@host/db")))
    assert effective(loaded, {})[0].value == "postgresql://***@host/db"


def test_effective_tells_no_variable_where_the_key_comes_from_a_file():
    loaded = load(None, variables({"providers.openai.api_key_env": "", "providers.openai.api_key_file": "/run/key"}))
    values = {setting.key: setting.value for setting in effective(loaded, {})}
    assert values["providers.openai.api_key_env"] is None
    assert values["providers.openai.api_key_file"] == "/run/key"
