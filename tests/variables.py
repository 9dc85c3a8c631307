"""Settings as a user sets them in the environment."""


def variable(key: str) -> str:
    return "ORCHESTRATOR_" + key.upper().replace(".", "__").replace("-", "_")


def variables(settings: dict[str, str]) -> dict[str, str]:
    return {variable(key): words for key, words in settings.items()}
