"""A stand-in for the model hub: the part of its HTTP API by which models go there and come back.

The client is the real one. Small text files come inside a commit, others by the protocol of Git
LFS, as on the hub; a file is read back under its commit, with its size and hash in the headers.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest
import yaml

TOKEN = "hf_of_the_owner"
OWNER = "user"
LICENSES = {"mit", "apache-2.0", "cc-by-4.0", "other"}
LFS_SUFFIXES = {".safetensors", ".onnx", ".pt2"}


@dataclass
class Repository:
    """commits: the files of each, by their names, oldest first."""

    private: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b""}])
    messages: list[str] = field(default_factory=lambda: ["initial commit"])

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1]

    def number_of(self, revision: str) -> int | None:
        """Of the commit that a branch or a hash means."""
        if revision == "main":
            return len(self.commits) - 1
        shas = [sha_of(number) for number in range(len(self.commits))]
        return shas.index(revision) if revision in shas else None


@dataclass
class Hub:
    """What the server holds, and which files were downloaded from it."""

    address: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    downloads: list[str] = field(default_factory=list)


def sha_of(number: int) -> str:
    return hashlib.sha1(str(number).encode()).hexdigest()


def lfs_oid(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Nothing: a test that fails shows the client's error."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        if path == "/api/validate-yaml":
            self._validate_card(json.loads(body)["content"])
        elif not self._is_owner():
            self._refuse()
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            self._begin_upload(match[1], json.loads(body))
        elif match := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            self._choose_ways(json.loads(body))
        elif match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            self._commit(match[1], body)
        else:
            self._answer({"error": f"no such path: {path}"}, 404)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.removeprefix("/lfs/")
        assert oid == lfs_oid(content)
        self.hub.blobs[oid] = content
        self._answer({})

    def do_GET(self) -> None:
        self._read()

    def do_HEAD(self) -> None:
        self._read()

    def _read(self) -> None:
        path = unquote(urlsplit(self.path).path)
        match = re.fullmatch(
            r"(?:/api/models)?/([^/]+/[^/]+)(?:/(revision|tree|resolve)/([^/]+)(?:/(.+))?)?", path
        )
        repository = None if match is None else self.hub.repositories.get(match[1])
        if match is None or repository is None or (repository.private and not self._is_owner()):
            status = 404 if self._is_owner() else 401
            return self._answer({"error": "Repository not found"}, status, error="RepoNotFound")
        name, kind, revision, file = match.groups()
        number = repository.number_of(revision or "main")
        if number is None:
            return self._answer({"error": "no such revision"}, 404, error="RevisionNotFound")
        files = repository.commits[number]
        if kind == "resolve":
            return self._download(name, files, number, file)
        if kind == "tree":
            return self._answer([self._entry(*item) for item in files.items()])
        siblings = [{"rfilename": each} for each in files]
        facts = {"id": name, "sha": sha_of(number), "private": repository.private}
        return self._answer({**facts, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0})

    def _entry(self, name: str, content: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": name, "size": len(content), "oid": git_oid(content)}
        if Path(name).suffix in LFS_SUFFIXES:
            size = len(content)
            entry["lfs"] = {"oid": lfs_oid(content), "size": size, "pointerSize": 130}
        return entry

    def _download(self, name: str, files: dict[str, bytes], number: int, file: str) -> None:
        if file not in files:
            return self._answer({"error": "no such file"}, 404, error="EntryNotFound")
        content = files[file]
        is_large = Path(file).suffix in LFS_SUFFIXES
        self.send_response(200)
        self.send_header("ETag", f'"{lfs_oid(content) if is_large else git_oid(content)}"')
        self.send_header("X-Repo-Commit", sha_of(number))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.hub.downloads.append(f"{name}/{file}")
            self.wfile.write(content)
        return None

    def _validate_card(self, card: str) -> None:
        """By the rules of the hub that a model's card may break."""
        front = yaml.safe_load(card.split("---\n")[1])
        errors = []
        if "license" in front and front["license"] not in LICENSES:
            errors.append({"message": f'"license" must be one of {sorted(LICENSES)}'})
        for key in ("tags", "base_model", "metrics"):
            values = front.get(key, [])
            if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
                errors.append({"message": f'"{key}" must be an array of texts'})
        self._answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _create(self, wanted: dict[str, Any]) -> None:
        owner = wanted.get("organization") or OWNER
        name = f"{owner}/{wanted['name']}"
        address = {"url": f"{self.hub.address}/{name}", "name": name}
        if owner != OWNER:
            return self._answer({"error": f"You don't have the rights to {owner}"}, 403)
        if name in self.hub.repositories:
            return self._answer({"error": "You already created this model repo", **address}, 409)
        private = wanted.get("visibility") == "private" or wanted.get("private") is True
        self.hub.repositories[name] = Repository(private)
        return self._answer(address)

    def _choose_ways(self, wanted: dict[str, Any]) -> None:
        files = []
        for file in wanted["files"]:
            way = "lfs" if Path(file["path"]).suffix in LFS_SUFFIXES else "regular"
            files.append({"path": file["path"], "uploadMode": way, "shouldIgnore": False})
        self._answer({"files": files})

    def _begin_upload(self, name: str, wanted: dict[str, Any]) -> None:
        assert name in self.hub.repositories
        objects = []
        for blob in wanted["objects"]:
            upload = {"href": f"{self.hub.address}/lfs/{blob['oid']}"}
            objects.append({**blob, "actions": {"upload": upload}})
        self._answer({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, body: bytes) -> None:
        repository = self.hub.repositories[name]
        files = dict(repository.files)
        for line in body.splitlines():
            step = json.loads(line)
            value = step["value"]
            if step["key"] == "header":
                repository.messages.append(value["summary"])
            elif step["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif step["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            else:
                assert step["key"] == "deletedFile"
                del files[value["path"]]
        repository.commits.append(files)
        sha = sha_of(len(repository.commits) - 1)
        url = f"{self.hub.address}/{name}/commit/{sha}"
        self._answer({"commitUrl": url, "commitOid": sha, "success": True})

    def _is_owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _refuse(self) -> None:
        self._answer({"error": "Invalid username or password."}, 401)

    def _answer(self, content: Any, status: int = 200, *, error: str = "") -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub without repositories, at an address of this machine."""
    handler = type("Handler", (Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
        handler.hub = hub
        thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def use_hub(patch: pytest.MonkeyPatch, address: str, cache: Path, token: str | None) -> None:
    """Points the client in this process to a hub, with an empty cache, logged in or not."""
    constants = huggingface_hub.constants
    patch.setattr(constants, "ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no token"))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    # files go by Git LFS, which is a protocol that a test can speak
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    patch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    patch.delenv("HF_TOKEN", raising=False)
    if token is not None:
        patch.setenv("HF_TOKEN", token)
