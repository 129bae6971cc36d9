"""A local stand-in of the Hugging Face Hub: what huggingface_hub asks of it to create, fill and read a repository of a model."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

TOKEN = "hf_test"
LARGE = (".safetensors", ".png")  # what goes to large file storage


class Hub:
    """Repositories by name, {path: content}, and every request in order."""

    def __init__(self):
        self.repos, self.private, self.gated, self.objects, self.requests, self.lfs = {}, {}, set(), {}, [], set()
        self.commits = []

    def sha(self, name):
        return hashlib.sha1(repr(sorted(self.repos[name].items())).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self):
        return self.server.hub

    def log_message(self, *_):
        pass

    def answer(self, status, content=b"", **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code, message):
        self.answer(status, {"error": message}, **{"X-Error-Code": code, "X-Error-Message": message})

    def may_write(self):
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self.refuse(403, "Forbidden", "this token may not write")
        return False

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.requests.append(("PUT", self.path))
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.objects[oid] = content
        self.answer(200)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlparse(self.path).path
        self.hub.requests.append(("POST", path))
        if path == "/api/validate-yaml":
            text = json.loads(body)["content"]
            assert text.startswith("---\n")
            return self.answer(200, {"errors": [], "warnings": []})
        if not self.may_write():
            return None
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.hub.repos:
                return self.answer(409, {"error": "You already created this model repo", "url": f"{self.server.address}/{name}"})
            self.hub.repos[name] = {}
            self.hub.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
            return self.answer(200, {"url": f"{self.server.address}/{name}"})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            files = [
                {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular", "shouldIgnore": False, "oid": None}
                for one in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.server.address}/lfs/{one['oid']}"}}} for one in json.loads(body)["objects"]
            ]
            return self.answer(200, {"transfer": "basic", "objects": objects}, **{"Content-Type": "application/vnd.git-lfs+json"})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            return self.commit(found[1], [json.loads(line) for line in body.splitlines()])
        return self.refuse(404, "RepoNotFound", "there is no such address")

    def commit(self, name, lines):
        files = self.hub.repos[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.hub.commits.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
                self.hub.lfs.add(value["path"])
        oid = self.hub.sha(name)
        self.answer(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.server.address}/{name}/commit/{oid}"})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlparse(self.path).path)
        self.hub.requests.append((self.command, path))
        found = re.fullmatch(r"(?:/api/models)?/([^/]+/[^/]+?)(?:/(revision|tree|resolve)/([^/]+)(?:/(.*))?)?", path)
        name = found and found[1]
        if not found or name not in self.hub.repos:
            return self.refuse(401 if self.headers.get("Authorization") is None else 404, "RepoNotFound", "Repository not found")
        if name in self.hub.gated:
            return self.refuse(403, "GatedRepo", f"Access to model {name} is restricted")
        files, sha = self.hub.repos[name], self.hub.sha(name)
        if found[2] == "tree":
            rows = [{"path": path, "size": len(one), "oid": blob(one)} | self.large(path, one) for path, one in files.items()]
            entries = [{"type": "file"} | row for row in rows]
            return self.answer(200, entries)
        if found[2] == "resolve":
            if found[4] not in files:
                return self.refuse(404, "EntryNotFound", "Entry not found")
            content = files[found[4]]
            etag = hashlib.sha256(content).hexdigest() if found[4] in self.hub.lfs else blob(content)
            return self.answer(200, content, **{"ETag": f'"{etag}"', "X-Repo-Commit": sha, "Content-Type": "application/octet-stream"})
        siblings = [{"rfilename": path} for path in files]
        return self.answer(
            200, {"id": name, "modelId": name, "sha": sha, "private": self.hub.private.get(name, False), "siblings": siblings, "tags": []}
        )

    def large(self, path, content):
        if path not in self.hub.lfs:
            return {}
        return {"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}}


def blob(content):
    """The name that git gives a file's content."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def redirect(monkeypatch, address, cache):
    """Let huggingface_hub ask this address, with a token, and keep files in another cache."""
    for key, value in {
        "ENDPOINT": address, "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": True, "HF_HUB_DISABLE_PROGRESS_BARS": True,
    }.items():  # fmt: skip
        monkeypatch.setattr(f"huggingface_hub.constants.{key}", value)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@contextlib.contextmanager
def serving():
    """Yield the hub and its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub, server.address = Hub(), f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.hub, server.address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
