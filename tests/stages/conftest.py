import pytest


@pytest.fixture
def queue_place(queue_url):
    """Stages are tried on every kind of database."""
    return queue_url.removeprefix("sqlite:///")
