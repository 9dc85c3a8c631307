import msgspec
import pytest

from orchestrator.config import Config, Provider, load
from orchestrator.config.profiles import BUILT_IN

SERVER = """
[providers.my-server]
profile = "openai"
base_url = "http://127.0.0.1:8000/v1/"
api_key_env = "MY_KEY"
max_lines = 100
"""


def test_a_new_provider_is_its_profile_with_some_values_replaced(write):
    provider = load(write(SERVER), {}).config.providers["my-server"]
    assert provider == msgspec.structs.replace(
        BUILT_IN["openai"],
        name="my-server",
        base_url="http://127.0.0.1:8000/v1",
        api_key_env="MY_KEY",
        max_lines=100,
    )


def test_built_in_providers_stand_beside_the_users(write):
    assert list(load(write(SERVER), {}).config.providers) == ["doubleword", "openai", "my-server"]


def test_a_built_in_provider_keeps_what_is_not_replaced(write):
    path = write("[providers.doubleword]\nmax_active_batches = 7\n")
    provider = load(path, {}).config.providers["doubleword"]
    assert provider == msgspec.structs.replace(BUILT_IN["doubleword"], max_active_batches=7)


def test_an_empty_table_of_a_built_in_provider_changes_nothing(write):
    assert load(write("[providers.doubleword]\n"), {}).config == Config()


@pytest.mark.parametrize("text", ["[providers.groq]\n", "[providers.groq]\nmax_lines = 5\n"])
def test_a_new_provider_must_name_its_profile(text, write, refusal):
    path = write(text)
    assert refusal(load, path, {}) == f'{path}: providers.groq.profile must be set to one of "doubleword", "openai"'


def test_a_misspelt_built_in_provider_is_recognised(write, refusal):
    assert '(or did you mean provider "openai"?)' in refusal(load, write("[providers.opanai]\nmax_lines = 5\n"), {})


def test_an_unknown_profile_is_refused(write, refusal):
    text = SERVER.replace('"openai"', '"azure"')
    assert 'my-server.profile must be one of "doubleword", "openai"' in refusal(load, write(text), {})


def test_the_key_of_a_profile_is_not_sent_to_another_address_unasked(write, refusal):
    path = write(SERVER.replace('api_key_env = "MY_KEY"', ""))
    line = refusal(load, path, {})
    assert line.startswith(f"{path}: providers.my-server.api_key_env must be set: ")
    assert load(write(SERVER.replace("api_key_env", "api_key_file")), {})


def test_a_second_account_at_the_same_address_may_share_the_key(write):
    text = '[providers.again]\nprofile = "doubleword"\nbase_url = "https://api.doubleword.ai/v1/"\n'
    assert load(write(text), {}).config.providers["again"].api_key_env == "DOUBLEWORD_API_KEY"


def test_a_dash_in_a_providers_name_is_an_underscore_in_its_variable(write):
    environ = {"ORCHESTRATOR_PROVIDERS__MY_SERVER__MAX_LINES": "50"}
    loaded = load(write(SERVER), environ)
    assert loaded.config.providers["my-server"].max_lines == 50
    assert loaded.origins["providers.my-server.max_lines"] == "environment ORCHESTRATOR_PROVIDERS__MY_SERVER__MAX_LINES"


def test_a_variable_that_could_mean_two_providers_is_refused(write, refusal):
    path = write(SERVER + SERVER.replace("my-server", "my_server"))
    assert load(path, {})
    line = refusal(load, path, {"ORCHESTRATOR_PROVIDERS__MY_SERVER__MAX_LINES": "50"})
    assert "providers.my-server.max_lines and providers.my_server.max_lines share this variable" in line


def test_the_environment_alone_can_add_a_provider():
    prefix = "ORCHESTRATOR_PROVIDERS__MY_SERVER__"
    environ = {f"{prefix}PROFILE": "openai", f"{prefix}BASE_URL": "http://h/v1", f"{prefix}API_KEY_ENV": "K"}
    environ["ORCHESTRATOR_DEFAULTS__PROVIDER"] = "my_server"
    config = load(None, environ).config
    assert config.providers[config.defaults.provider].base_url == "http://h/v1"


def test_a_key_in_the_file_or_a_variable_of_settings_is_refused_and_not_shown(write, refusal):
    for line in (
        refusal(load, write("[providers.openai]\napi_key = 'sk-secret'\n"), {}),
        refusal(load, None, {"ORCHESTRATOR_PROVIDERS__OPENAI__API_KEY": "sk-secret"}),
        refusal(load, None, {"ORCHESTRATOR_PROVIDERS__NEW__API_KEY": "sk-secret"}),
    ):
        assert "api_key must not hold the key; put it in the variable that api_key_env names" in line
        assert "sk-secret" not in line


@pytest.mark.parametrize("name", ["sk-secret", "a b", "1A", "A\n", "A=B", "Ä"])
def test_what_cannot_name_a_variable_is_refused_and_not_shown(name, refusal):
    line = refusal(load, None, {"ORCHESTRATOR_PROVIDERS__OPENAI__API_KEY_ENV": name})
    assert line.endswith("must be the name of an environment variable, or empty")


def test_the_key_is_read_from_its_variable_at_each_use():
    provider = Config().providers["doubleword"]
    environ = {"DOUBLEWORD_API_KEY": " sk-one\n"}
    assert provider.api_key(environ) == "sk-one"
    environ["DOUBLEWORD_API_KEY"] = "sk-two"
    assert provider.api_key(environ) == "sk-two"
    assert "sk-" not in repr(provider)


def test_the_key_is_read_from_the_processs_environment_unless_told_otherwise(monkeypatch):
    monkeypatch.setenv("DOUBLEWORD_API_KEY", "sk-one")
    assert Config().providers["doubleword"].api_key() == "sk-one"


def with_file(path) -> Provider:
    return msgspec.structs.replace(BUILT_IN["doubleword"], api_key_file=str(path))


def test_the_file_of_a_key_goes_before_its_variable(tmp_path):
    path = tmp_path / "key"
    path.write_text("sk-file\r\n")
    assert with_file(path).api_key({"DOUBLEWORD_API_KEY": "sk-env"}) == "sk-file"


def test_the_file_of_a_key_may_stand_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "key").write_text("sk-file")
    assert with_file("~/key").api_key({}) == "sk-file"


@pytest.mark.parametrize("environ", [{}, {"DOUBLEWORD_API_KEY": ""}, {"DOUBLEWORD_API_KEY": " \n"}])
def test_a_missing_key_names_its_variable(environ, refusal):
    line = refusal(BUILT_IN["doubleword"].api_key, environ)
    assert line == "DOUBLEWORD_API_KEY: holds no API key for provider doubleword; set it to the bare key"


def test_a_provider_made_without_any_source_of_its_key_says_which_setting(refusal):
    provider = msgspec.structs.replace(BUILT_IN["openai"], api_key_env=None)
    assert refusal(provider.api_key, {}).startswith("providers.openai.api_key_env: holds no API key")


def test_a_missing_file_of_a_key_names_file_and_setting(tmp_path, refusal):
    line = refusal(with_file("absent").api_key, {"DOUBLEWORD_API_KEY": "sk-env"})
    assert line.startswith("absent: the API key of provider doubleword cannot be read: No such file or directory; ")
    assert "providers.doubleword.api_key_file" in line
    assert "cannot be read" in refusal(with_file(tmp_path).api_key)
    assert "not a usable path" in refusal(with_file("nul\0").api_key)
    (tmp_path / "empty").write_text("\n")
    line = refusal(with_file(tmp_path / "empty").api_key)
    assert line.endswith("holds no API key for provider doubleword; put the bare key there")


@pytest.mark.parametrize(
    "key", ["sk-“secret”", "\ufeffsk-secret", "sk-secret\nsk-other", "sk-\tsecret", "sk-secret\x00"]
)
def test_a_key_with_characters_no_key_has_is_refused_and_not_shown(key, tmp_path, refusal):
    path = tmp_path / "key"
    path.write_text(key, encoding="utf-8")
    for line in (
        refusal(BUILT_IN["doubleword"].api_key, {"DOUBLEWORD_API_KEY": key}),
        refusal(with_file(path).api_key),
    ):
        assert "holds characters no key has" in line
        assert "secret" not in line


@pytest.mark.parametrize(
    "key",
    ['"sk-secret"', "'sk-secret'", '"sk-secret', "sk-secret'", "Bearer sk-secret", "Authorization: Bearer sk-secret"],
)
def test_a_key_in_quotes_or_with_the_word_before_it_is_refused_and_not_shown(key, tmp_path, refusal):
    (tmp_path / "key").write_text(f"{key}\n")
    wrong = 'the API key of provider doubleword stands in quotes or after "Bearer"'
    line = refusal(BUILT_IN["doubleword"].api_key, {"DOUBLEWORD_API_KEY": key})
    assert line == f"DOUBLEWORD_API_KEY: {wrong}; set it to the bare key"
    assert refusal(with_file(tmp_path / "key").api_key) == f"{tmp_path / 'key'}: {wrong}; put the bare key there"


@pytest.mark.parametrize("key", ["bearer-of-it", "sk-it's", "YWJj==", "..."])
def test_other_keys_are_taken_as_they_are(key):
    assert BUILT_IN["doubleword"].api_key({"DOUBLEWORD_API_KEY": key}) == key


def test_an_endless_file_of_a_key_is_not_read_to_its_end(refusal):
    assert "holds characters no key has" in refusal(with_file("/dev/zero").api_key)


@pytest.mark.parametrize(("name", "provider"), BUILT_IN.items())
def test_built_in_limits_are_the_documented_ones(name, provider):
    assert provider.name == provider.profile == name
    assert (provider.max_file_bytes, provider.max_lines, provider.max_active_batches) == (200_000_000, 50_000, 1000)
    assert "/v1/chat/completions" in provider.endpoints
    assert provider.completion_windows[0] == "24h"


def test_doubleword_and_openai_differ_where_their_servers_do():
    doubleword, openai = BUILT_IN["doubleword"], BUILT_IN["openai"]
    assert (doubleword.mix_models, openai.mix_models) == (True, False)
    assert (doubleword.resume_parameter, openai.resume_parameter) == ("skip", None)
    assert (doubleword.partial_output, openai.partial_output) == (True, False)
    assert (doubleword.deletable_batches, openai.deletable_batches) == (True, False)
    assert (doubleword.searchable_batches, openai.searchable_batches) == (True, True)
    assert (doubleword.max_active_batches_per_lane, openai.max_active_batches_per_lane) == (100, 10)
    assert (doubleword.completion_windows, openai.completion_windows) == (("24h", "1h"), ("24h",))
    assert set(doubleword.endpoints) - set(openai.endpoints) == {"/v1/messages"}
    assert doubleword.max_line_bytes == 10 * 1024 * 1024
