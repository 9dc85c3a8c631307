"""The image's health check, the compose files and the cluster's manifest fit the program they run."""

import asyncio
import contextlib
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from orchestrator.cli import COMMANDS
from orchestrator.config import load
from orchestrator.vitals import Vitals
from orchestrator.web.routes import routes
from orchestrator.web.site import Site

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
COMPOSE = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
OVER = yaml.safe_load((ROOT / "deploy/compose.postgresql.yaml").read_text())
MANIFESTS = list(yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text()))
CLUSTER = {manifest["kind"]: manifest for manifest in MANIFESTS}
POD = CLUSTER["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
SERVICE = COMPOSE["services"]["orchestrator"]
USER = int(re.search(r"^USER (\d+):\1$", DOCKERFILE, re.MULTILINE)[1])
IMAGE_SETTINGS = dict(re.findall(r"(ORCHESTRATOR_\w+)=(\S+)", DOCKERFILE))
GRACE = load(None, {}).config.shutdown.grace_seconds


def seconds(text):
    return int(text.removesuffix("s"))


# ---------------------------------------------------------------- the image


@pytest.fixture
async def answering():
    """A server on the port that the health check asks, if it is free here; it answers with the status given."""
    async with contextlib.AsyncExitStack() as stack:

        async def serve(status):
            async def answer(_request):
                return web.Response(status=status)

            app = web.Application()
            app.router.add_get("/healthz", answer)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            return runner.addresses[0][1]

        yield serve


async def health(port):
    """The exit code of the image's health check, asking this port."""
    words = json.loads(re.search(r"^HEALTHCHECK .*CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[1])
    assert words[0] == "python"
    assert "8080" in words[2]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", words[2].replace("8080", str(port)), stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
async def test_the_image_is_healthy_when_its_page_says_so(answering, status, code):
    assert await health(await answering(status)) == code


async def test_the_image_is_unhealthy_when_nobody_answers(answering):
    port = await answering(200)
    assert await health(port) == 0
    assert await health(1) == 1


def test_the_image_serves_the_page_that_its_health_check_asks_and_keeps_its_data_on_the_volume():
    config = load(None, IMAGE_SETTINGS).config
    assert config.web.address() == ("127.0.0.1", 8080)
    assert config.database.path == Path("/data/orchestrator.db")
    assert "VOLUME /data" in DOCKERFILE


# ---------------------------------------------------------------- compose


def test_the_composed_service_reads_its_key_from_the_secret_it_is_given():
    config = load(None, {**IMAGE_SETTINGS, **SERVICE["environment"]}).config
    (secret,) = SERVICE["secrets"]
    assert config.providers["doubleword"].api_key_file == f"/run/secrets/{secret}"
    assert COMPOSE["secrets"][secret] == {"file": "./doubleword.key"}


def test_composed_services_keep_their_data_have_time_to_stop_and_bounded_logs():
    over = OVER["services"]["postgresql"]
    assert SERVICE["volumes"] == ["queue:/data"]
    assert {"queue", "postgresql"} == {*COMPOSE["volumes"], *OVER["volumes"]}
    assert over["volumes"] == ["postgresql:/var/lib/postgresql/data"]
    assert seconds(SERVICE["stop_grace_period"]) > GRACE
    for service in (SERVICE, over):
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert SERVICE["read_only"] is True


def test_the_page_can_be_opened_to_other_containers_as_the_comment_says():
    text = (ROOT / "deploy/compose.yaml").read_text()
    opened = yaml.safe_load(re.sub(r"# (?=ORCHESTRATOR_|PAGE_)", "", text))["services"]["orchestrator"]["environment"]
    config = load(None, {**IMAGE_SETTINGS, **{name: opened[name] for name in opened if "__" in name}}).config
    assert config.web.address() == ("0.0.0.0", 8080)
    assert config.web.token_env == "PAGE_TOKEN"
    assert "PAGE_TOKEN" in opened


def test_the_variant_with_postgresql_names_its_own_database():
    environment = OVER["services"]["orchestrator"]["environment"]
    (url,) = environment.values()
    assert list(environment) == ["ORCHESTRATOR_DATABASE__URL"]
    found = re.fullmatch(r"postgresql://(\w+):\$\{(\w+):\?\}@(\w+)/(\w+)", url)
    server = OVER["services"][found[3]]["environment"]
    assert (server["POSTGRES_USER"], server["POSTGRES_DB"]) == (found[1], found[4])
    assert server["POSTGRES_PASSWORD"] == f"${{{found[2]}:?}}"
    assert OVER["services"]["orchestrator"]["depends_on"] == {found[3]: {"condition": "service_healthy"}}


# ---------------------------------------------------------------- the cluster


def settings_of_the_pod(folder):
    (name, text), *_ = CLUSTER["ConfigMap"]["data"].items()
    (folder / name).write_text(text)
    plain = {each["name"]: each["value"] for each in CONTAINER["env"] if "value" in each}
    return load(folder / name, {**IMAGE_SETTINGS, **plain}).config


def test_the_pod_runs_a_command_there_is_with_the_settings_it_mounts(tmp_path):
    config = settings_of_the_pod(tmp_path)
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    option, path, command = CONTAINER["args"]
    assert (option, command in COMMANDS) == ("--config", True)
    assert path == f"{mounts['settings']}/{next(iter(CLUSTER['ConfigMap']['data']))}"
    assert str(config.database.path.parent) == mounts["queue"]
    assert config.providers["doubleword"].api_key_file == f"{mounts['key']}/doubleword.key"
    assert {volume["name"] for volume in POD["volumes"]} == set(mounts)


def test_the_pod_can_be_probed_on_addresses_that_need_no_token(tmp_path, rig):
    config = settings_of_the_pod(tmp_path)
    host, port = config.web.address()
    assert host == "0.0.0.0"
    assert [each["containerPort"] for each in CONTAINER["ports"]] == [port]
    assert CLUSTER["Service"]["spec"]["ports"][0]["port"] == port
    needs = {route.path: not route.open for route in routes(Site(rig.context, Vitals(), "t"))}
    probes = {name: CONTAINER[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert [needs[probe["path"]] for probe in probes.values()] == [False] * 3
    assert probes["livenessProbe"]["path"] == "/healthz"
    assert probes["readinessProbe"]["path"] == "/readyz"
    assert config.web.token_env in {each["name"] for each in CONTAINER["env"]}


def test_the_pod_is_alone_on_its_file_has_time_to_stop_and_runs_as_the_images_user():
    spec = CLUSTER["Deployment"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert POD["terminationGracePeriodSeconds"] > GRACE
    assert POD["securityContext"]["runAsUser"] == POD["securityContext"]["fsGroup"] == USER
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_manifest_names_the_version_there_is():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert CONTAINER["image"] == f"orchestrator:{version}"


def test_everything_in_the_cluster_goes_by_one_name():
    labels = CLUSTER["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert CLUSTER["Service"]["spec"]["selector"] == labels
    assert CLUSTER["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert {manifest["metadata"]["name"] for manifest in MANIFESTS} == {"orchestrator"}
