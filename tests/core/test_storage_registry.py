from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway_core.errors import ConfigError
from gateway_core.storage.local import LocalStorage
from gateway_core.storage.registry import open_storage
from gateway_core.testing.storage import get, put


async def test_the_default_is_a_folder_in_the_data_directory(tmp_path):
    storage = open_storage("", {}, tmp_path)
    assert list(tmp_path.iterdir()) == []
    await put(storage, "a", b"hello")
    assert storage.local_path("a").is_relative_to(tmp_path / "storage")


async def test_a_file_url_is_a_folder_elsewhere(tmp_path):
    storage = open_storage(f"file://{tmp_path}/my%20files", {}, Path("/nonexistent"))
    await put(storage, "a", b"hello")
    assert await get(LocalStorage(tmp_path / "my files"), "a") == b"hello"


def test_a_plugin_brings_a_scheme(tmp_path):
    opened = []

    def factory(url, data_dir):
        opened.append((url, data_dir))
        return LocalStorage(tmp_path)

    assert isinstance(open_storage("ftp://host/x?y", {"ftp": factory}, tmp_path / "data"), LocalStorage)
    assert opened == [("ftp://host/x?y", tmp_path / "data")]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host", "unknown scheme 'ftp'; known: file, s3"),
        ("/var/lib/files", "unknown scheme ''; known: file, s3"),
        ("file:relative", "file:///path"),
        ("file://host/path", "file:///path"),
        ("file:///path?x=1", "file:///path"),
        ("s3:///prefix", "s3://bucket/prefix"),
        ("s3://bucket#x", "s3://bucket/prefix"),
        ("s3://bucket?addressing=odd", "s3://bucket/prefix"),
        ("s3://bucket?regoin=x&endpoint=y", "unknown regoin; known: addressing, endpoint, region"),
        ("s3://bucket?secret_access_key=hush", "AWS_SECRET_ACCESS_KEY"),
        ("s3://bucket?aws_access_key_id=x", "AWS_SECRET_ACCESS_KEY"),
        ("s3://key:hush@bucket", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_a_url_that_cannot_be_used_is_a_configuration_error(tmp_path, url, message):
    with pytest.raises(ConfigError) as caught:
        open_storage(url, {}, tmp_path)
    assert message in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_plugin_may_not_take_over_a_built_in_scheme(tmp_path):
    with pytest.raises(ConfigError, match="may not be called s3"):
        open_storage("", {"s3": lambda url, data_dir: LocalStorage(data_dir)}, tmp_path)


def test_without_obstore_a_bucket_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    with pytest.raises(ConfigError, match=r"content-gateway\[s3\]"):
        open_storage("s3://bucket", {}, tmp_path)


def test_obstore_is_not_imported_for_local_storage(tmp_path):
    script = (
        "import sys; from pathlib import Path\n"
        "from gateway_core.storage.registry import open_storage\n"
        "open_storage('', {}, Path(sys.argv[1]))\n"
        "assert not {name for name in sys.modules if name.startswith('obstore')}\n"
        "assert 'gateway_core.storage.objects' not in sys.modules\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", script, tmp_path], env=env, check=False).returncode == 0
