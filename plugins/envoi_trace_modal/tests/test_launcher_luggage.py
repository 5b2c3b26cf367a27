"""What travels to Modal: folders, versions, credentials."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import attrs
import pytest
from envoi_trace_modal.launcher import credentials, distributions, folders
from envoi_trace_modal.launcher.distributions import distributions_here
from envoi_trace_modal.launcher.folders import pack, unpack
from envoi_trace_modal.launcher.image import fingerprint
from envoi_trace_modal.launcher.options import ModalLauncherOptions
from envoi_trace_modal.launcher.wheels import make_wheel

from envoi_trace_core.domain.content import hash_folder
from envoi_trace_core.errors import UsageError
from envoi_trace_core.plugins import Plugins
from envoi_trace_core.run.config import RunConfig
from envoi_trace_core.run.plan import Chosen, RunPlan
from envoi_trace_core.specs import Carried, SandboxSpec, StorageSpec, option


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "here" / "task"
    (made / "inner").mkdir(parents=True)
    (made / "en.md").write_text("Do it.")
    (made / "inner" / "run.sh").write_text("#!/bin/sh\n")
    (made / "inner" / "run.sh").chmod(0o755)
    (made / "inner" / "link.md").symlink_to("../en.md")
    os.link(made / "en.md", made / "second-name.md")
    (made / "__pycache__").mkdir()
    (made / "__pycache__" / "x.pyc").write_bytes(b"x")
    os.mkfifo(made / "pipe")
    return made


# -- folders --------------------------------------------------------------------------------------


def test_a_folder_arrives_as_it_was(folder: Path, tmp_path: Path) -> None:
    data, content_hash = pack(folder), hash_folder(folder)
    wanted = tmp_path / "there" / "task"
    assert unpack(data, wanted, tmp_path / "elsewhere", content_hash) == wanted
    assert hash_folder(wanted) == content_hash
    assert os.access(wanted / "inner" / "run.sh", os.X_OK)
    assert (wanted / "inner" / "link.md").is_symlink()
    assert not (wanted / "__pycache__").exists()


def test_what_stands_there_is_never_touched(folder: Path, tmp_path: Path) -> None:
    data, content_hash = pack(folder), hash_folder(folder)
    assert unpack(data, folder, tmp_path / "elsewhere", content_hash) == folder
    (folder / "en.md").write_text("Another.")
    found = unpack(data, folder, tmp_path / "elsewhere", content_hash)
    assert found == tmp_path / "elsewhere" / "task"
    assert hash_folder(found) == content_hash
    assert (folder / "en.md").read_text() == "Another."


def test_a_place_that_can_not_be_made_is_no_failure(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = unpack(pack(folder), tmp_path / "file" / "task", tmp_path / "elsewhere", "")
    assert found == tmp_path / "elsewhere" / "task"


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret", "inner/../../secret", "inner/out"])
def test_a_link_that_leads_out_does_not_travel(folder: Path, target: str) -> None:
    (folder.parent / "secret").write_text("secret")
    (folder / "inner" / "out").symlink_to("../../secret")
    (folder / "a-link").symlink_to(target)
    with pytest.raises(UsageError, match="is a link that leads out of the folder") as caught:
        pack(folder)
    assert caught.value.mend


@pytest.mark.parametrize(("limit", "value"), [("MAX_BYTES", 10), ("MAX_FILES", 2)])
def test_a_large_folder_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    monkeypatch.setattr(folders, limit, value)
    with pytest.raises(UsageError, match="too large to travel"):
        pack(folder)


def test_an_archive_that_leads_out_is_not_unpacked(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../escaped"))
    with pytest.raises(tarfile.TarError):
        unpack(packed.getvalue(), tmp_path / "there" / "task", tmp_path / "elsewhere", "")
    assert not (tmp_path / "there" / "escaped").exists()


# -- versions -------------------------------------------------------------------------------------


def test_a_checkout_travels_as_wheels_of_the_same_versions() -> None:
    found = distributions_here(Plugins.load())
    names = {wheel.file_name for wheel in found.wheels}
    for name in ("envoi-trace", "envoi-trace-modal", "envoi-trace-s3", "envoi-trace-codex"):
        assert f"{name.replace('-', '_')}-{importlib.metadata.version(name)}-py3-none-any.whl" in names
    assert found.pins == ()
    libraries = dict(line.split("==") for line in found.libraries)
    for name in ("attrs", "anyio", "modal", "boto3", "botocore", "grpclib"):  # the last two are needed by others
        assert libraries[name] == importlib.metadata.version(name)
    assert "pytest" not in libraries
    assert found.python == f"{sys.version_info.major}.{sys.version_info.minor}"


def test_what_came_from_an_index_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "_is_from_index", lambda _distribution: True)
    found = distributions_here(Plugins.load())
    assert f"envoi-trace=={importlib.metadata.version('envoi-trace')}" in found.pins
    assert f"envoi-trace-s3=={importlib.metadata.version('envoi-trace-s3')}" in found.pins
    assert found.wheels == ()


def test_another_version_is_another_function() -> None:
    found = distributions_here(Plugins.load())
    options = ModalLauncherOptions()
    others = [
        (attrs.evolve(found, python="3.99"), options),
        (attrs.evolve(found, libraries=("attrs==1",)), options),
        (attrs.evolve(found, wheels=found.wheels[1:]), options),
        (attrs.evolve(found, wheels=(attrs.evolve(found.wheels[0], data=b""), *found.wheels[1:])), options),
        (found, ModalLauncherOptions(preemptible=True)),
    ]
    assert fingerprint(attrs.evolve(found), ModalLauncherOptions()) == fingerprint(found, options)
    assert fingerprint(found, options) not in {fingerprint(*other) for other in others}


def test_a_wheel_holds_the_files_that_are_imported_here() -> None:
    wheel = make_wheel(importlib.metadata.distribution("envoi-trace-modal"))
    with zipfile.ZipFile(io.BytesIO(wheel.data)) as archive:
        names = set(archive.namelist())
        body = archive.read("envoi_trace_modal/launcher/body.py")
    version = importlib.metadata.version("envoi-trace-modal")
    assert {
        f"envoi_trace_modal-{version}.dist-info/{name}" for name in ("METADATA", "RECORD", "entry_points.txt")
    } <= names
    assert not any("__pycache__" in name for name in names)
    assert body == (Path(credentials.__file__).parent / "body.py").read_bytes()
    assert make_wheel(importlib.metadata.distribution("envoi-trace-modal")).sha256 == wheel.sha256


def test_compiled_modules_can_not_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "fast-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fast\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[envoi_trace]\nfast = fast_plugin_of_a_test.plugin\n")
    package = tmp_path / "fast_plugin_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "speedups.abi3.so").write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="has compiled modules"):
        make_wheel(importlib.metadata.PathDistribution(info))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")
def test_the_wheels_are_what_pip_installs_and_its_plugins_are_found(tmp_path: Path) -> None:
    """Installed beside the libraries of this environment, and not by its editable installs."""
    found = distributions_here(Plugins.load())
    for wheel in found.wheels:
        (tmp_path / wheel.file_name).write_bytes(wheel.data)
    site = tmp_path / "site"
    words = ["uv", "pip", "install", "--offline", "--no-deps", "--quiet", "--target", str(site)]
    subprocess.run([*words, *(str(tmp_path / wheel.file_name) for wheel in found.wheels)], check=True, timeout=100)
    program = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import envoi_trace_core, envoi_trace_modal.launcher.body as body\n"
        "from envoi_trace_core.plugins import Plugins\n"
        "assert body.__file__.startswith(sys.path[0]) and envoi_trace_core.__file__.startswith(sys.path[0])\n"
        "found = Plugins.load()\n"
        "print(*found.names('agent'), *found.names('storage'), *found.names('launcher'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert {"codex", "opencode", "s3", "modal"} <= set(done.stdout.split())


# -- credentials ----------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class AcmeOptions:
    token: str = option("", "signs in", secret=True)
    place: str = option("", "where")


def plan_of(config: RunConfig, *, secrets: dict[str, str], carried: Carried | None = None) -> RunPlan:
    async def create(*_arguments: object) -> object:
        raise NotImplementedError

    acme = AcmeOptions()
    given = (lambda _options: carried) if carried is not None else None
    storage = StorageSpec(
        name="acme", summary="", options=AcmeOptions, create=create, secrets=lambda _options: secrets, carried=given
    )
    sandbox = SandboxSpec(name="acme", summary="", options=AcmeOptions, create=create, attach=create, list_live=create)
    agent = Plugins.load().agent("script")
    return RunPlan(
        config=config, task=None, environment=None, agent=Chosen(spec=agent, options=agent.options()), parser=None,
        sandbox=Chosen(spec=sandbox, options=acme), storage=Chosen(spec=storage, options=acme), budgets=None,
        price=None, secrets=secrets, left_s=config.timeout_s,
    )  # fmt: skip


CONFIG = RunConfig(trajectory_id="t", task="/t", environment="/e", agent="script", sandbox="acme", storage="acme")


def test_a_plugin_that_says_nothing_finds_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_KEY", "canary-credential")
    monkeypatch.setenv("UNRELATED", "something")
    luggage = credentials.collect(plan_of(CONFIG, secrets={"the key": "canary-credential"}))
    assert luggage.secret == {"ACME_KEY": "canary-credential"}
    assert "canary" not in repr(luggage)


def test_files_and_secret_options_are_put_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = attrs.evolve(CONFIG, storage_opts=("token=canary-token", "place=here"))
    carried = Carried(variables={"ACME_KEY": "canary-key"}, files={"~/.acme/login": "canary-login"}, notes=("soon",))
    luggage = credentials.collect(plan_of(config, secrets={}, carried=carried))
    assert luggage.config.storage_opts == ("place=here",)
    assert "canary" not in luggage.config.to_json()
    assert luggage.notes == ("soon",)

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in luggage.secret.items():
        monkeypatch.setenv(name, value)
    assert credentials.put_in_place(luggage.config).storage_opts == ("place=here", "token=canary-token")
    login = tmp_path / "home" / ".acme" / "login"
    assert login.read_text() == "canary-login"
    assert login.stat().st_mode & 0o777 == 0o600
    assert os.environ["ACME_KEY"] == "canary-key"
    for name in (credentials.FILES_VARIABLE, credentials.OPTIONS_VARIABLE):
        assert name not in os.environ


def test_the_users_own_token_of_modal_stays_here() -> None:
    carried = Carried(variables={"MODAL_TOKEN_ID": "id", "MODAL_TOKEN_SECRET": "canary-token", "ACME_KEY": "key"})
    assert credentials.collect(plan_of(CONFIG, secrets={}, carried=carried)).secret == {"ACME_KEY": "key"}


def test_a_credential_in_the_configuration_is_refused() -> None:
    config = attrs.evolve(CONFIG, labels={"note": "canary-credential"})
    with pytest.raises(UsageError, match="a credential stands in an option") as caught:
        credentials.collect(plan_of(config, secrets={"key": "canary-credential"}))
    assert "canary" not in str(caught.value)


def test_too_much_for_a_secret_is_refused() -> None:
    carried = Carried(files={"~/login": "x" * credentials.MAX_SECRET_BYTES})
    with pytest.raises(UsageError, match="too large for a secret"):
        credentials.collect(plan_of(CONFIG, secrets={}, carried=carried))


def test_what_a_file_holds_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    carried = Carried(files={"~/login": 'quotes " and\nlines'})
    luggage = credentials.collect(plan_of(CONFIG, secrets={}, carried=carried))
    assert json.loads(luggage.secret[credentials.FILES_VARIABLE]) == {"~/login": 'quotes " and\nlines'}
