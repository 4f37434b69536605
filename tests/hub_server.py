"""A small Hub on this machine, over real HTTP: enough of its API to push to, and to load what was pushed.

    with HubServer() as hub:
        hub.add_user("alice", "hf_alice", organisations={"lab": "write"})
        ...                                     # processes with HF_ENDPOINT=hub.endpoint and HF_HUB_DISABLE_XET=1

It speaks what huggingface_hub 1–2, datasets, evaluate and transformers ask for: repositories with branches and
commits, visibility, tokens and roles; large files through git-LFS (batch, PUT, verify), small ones in the commit;
files with the headers that caches need, and byte ranges. `requests` lists what was asked, `interrupt` breaks uploads.
"""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 10_000  # bytes from which a file is large (10 MB on the real Hub)
PREFIXES = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}
DATE = "2024-01-01T00:00:00.000Z"


def sha1(*parts: bytes) -> str:
    return hashlib.sha1(b"".join(parts)).hexdigest()


@dataclass(frozen=True)
class File:
    content: bytes
    large: bool

    @property
    def blob_id(self) -> str:
        """As git counts: of the content, or of the pointer that stands for a large file."""
        content = self.content
        if self.large:
            content = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(content)}\n"
            content = content.encode()
        return sha1(f"blob {len(content)}\0".encode(), content)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.blob_id

    def listing(self, path: str) -> dict:
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.blob_id}
        if self.large:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 130}
        return entry


@dataclass
class Repository:
    private: bool
    sdk: str | None = None
    branches: dict[str, str] = field(default_factory=dict)  # name → commit
    commits: dict[str, dict[str, File]] = field(default_factory=dict)  # commit → path → file
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, File], message: str) -> str:
        oid = sha1(json.dumps([len(self.commits), message]).encode())
        self.commits[oid], self.branches[branch] = files, oid
        self.messages.append(message)
        return oid

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


class HubServer:
    def __init__(self):
        self.users: dict[str, dict] = {}  # token → name, organisations
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.collections: dict[str, dict] = {}  # slug → title, owner, private, items
        self.objects: dict[str, bytes] = {}  # large files by sha256, whether a commit names them or not
        self.requests: list[tuple[str, str]] = []
        self.stored: list[str] = []  # sha256 of each large file, in the order in which they arrived whole
        self.reached = threading.Event()  # an upload that is to be interrupted has come half-way
        self.released = threading.Event()  # and may end
        self._interruptions: list[int] = []
        self._hold = False
        self.lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()

    def add_user(self, name: str, token: str, organisations: dict[str, str] | None = None, role: str = "write") -> None:
        """`organisations`: name → write or read. `role`: of the token itself."""
        self.users[token] = {"name": name, "organisations": organisations or {}, "role": role}

    def files(self, kind: str, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """What a repository holds; `kind` is models, datasets or spaces."""
        repository = self.repositories[kind, repo_id]
        return {path: file.content for path, file in repository.commits[repository.resolve(revision)].items()}

    def interrupt(self, *uploads: int, hold: bool = False) -> None:
        """Break the connection in the middle of the n-th uploads of large files, counted from 1 and from now.

        With `hold` the connection stays open, `reached` is set and the rest waits for `released`: time to kill.
        """
        self._interruptions, self._hold = list(uploads), hold
        self.reached.clear()
        self.released.clear()

    def is_next_interrupted(self) -> bool:
        with self.lock:
            self._interruptions = [number - 1 for number in self._interruptions]
            return 0 in self._interruptions

    def may_write(self, user: dict | None, owner: str) -> bool:
        if user is None or user["role"] != "write":
            return False
        return owner == user["name"] or user["organisations"].get(owner) == "write"

    def may_read(self, user: dict | None, repository: Repository, owner: str) -> bool:
        return not repository.private or (
            user is not None and (owner == user["name"] or owner in user["organisations"])
        )


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None):
        self.status, self.message, self.code = status, message, code


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_) -> None:
            pass

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (ConnectionError, TimeoutError):
                self.close_connection = True  # the client is gone

        def do_request(self) -> None:
            address = urlsplit(self.path)
            self.query = parse_qs(address.query)
            parts = [unquote(part) for part in address.path.strip("/").split("/")]
            hub.requests.append((self.command, address.path))
            try:
                if self.command == "PUT":
                    return self.store(parts[-1])
                length = int(self.headers.get("Content-Length") or 0)
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = self.read_chunks()
                else:
                    body = self.rfile.read(length)
                self.user = self.check_token()
                self.route(parts, body)
            except Refused as refused:
                headers = {"X-Error-Message": refused.message}
                if refused.code:
                    headers["X-Error-Code"] = refused.code
                self.answer({"error": refused.message}, refused.status, headers)

        do_GET = do_HEAD = do_POST = do_PUT = do_request

        def check_token(self) -> dict | None:
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            if token and token not in hub.users:
                raise Refused(401, "Invalid credentials in Authorization header")
            return hub.users.get(token)

        def route(self, parts: list[str], body: bytes) -> None:
            match parts:
                case ["api", "whoami-v2"]:
                    return self.whoami()
                case ["api", "repos", "create"]:
                    return self.create(json.loads(body))
                case ["api", "collections", *slug]:
                    return self.collect("/".join(slug[:2]), json.loads(body) if body else None)
                case ["api", "validate-yaml"]:
                    return self.answer({"errors": [], "warnings": []})
                case ["api", ("models" | "datasets" | "spaces") as kind, owner, name, *rest]:
                    return self.api(kind, f"{owner}/{name}", rest, body)
                case [*prefix, owner, name, "info", "lfs", "objects", action] if name.endswith(".git"):
                    kind = prefix[0] if prefix else "models"
                    self.open(kind, f"{owner}/{name.removesuffix('.git')}", write=True)
                    return self.batch(json.loads(body)) if action == "batch" else self.verify(json.loads(body))
                case [("datasets" | "spaces") as kind, owner, name, "resolve", revision, *path]:
                    return self.serve(kind, f"{owner}/{name}", revision, "/".join(path))
                case [owner, name, "resolve", revision, *path]:
                    return self.serve("models", f"{owner}/{name}", revision, "/".join(path))
            raise Refused(404, f"{self.command} {self.path} is not known here")

        def whoami(self) -> None:
            if self.user is None:
                raise Refused(401, "Invalid username or password.")
            organisations = [
                {"name": name, "type": "org", "roleInOrg": role} for name, role in self.user["organisations"].items()
            ]
            access = {"accessToken": {"displayName": "test", "role": self.user["role"]}}
            self.answer({"type": "user", "name": self.user["name"], "orgs": organisations, "auth": access})

        def create(self, wanted: dict) -> None:
            if self.user is None:
                raise Refused(401, "Invalid username or password.")
            owner = wanted.get("organization") or self.user["name"]
            kind, repo_id = f"{wanted.get('type') or 'model'}s", f"{owner}/{wanted['name']}"
            if not hub.may_write(self.user, owner):
                raise Refused(403, f"You don't have the rights to create a {kind[:-1]} under the namespace {owner!r}")
            url = f"{hub.endpoint}/{PREFIXES[kind]}{repo_id}"
            if (kind, repo_id) in hub.repositories:
                return self.answer({"error": "You already created this repo", "url": url}, 409)
            private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
            repository = hub.repositories[kind, repo_id] = Repository(private, wanted.get("sdk"))
            repository.commit("main", {}, "initial commit")
            self.answer({"url": url, "name": repo_id, "id": repo_id})

        def collect(self, slug: str, wanted: dict | None) -> None:
            """Make one, show one, or add an item to one."""
            owner = slug.split("/")[0] if slug else (wanted or {})["namespace"]
            if wanted is not None and not hub.may_write(self.user, owner):
                raise Refused(403, f"You don't have the rights to write collections of {owner!r}")
            if wanted is not None and not slug:
                slug = f"{owner}/{wanted['title']}-0123456789abcdef01234567"
                if slug in hub.collections:
                    return self.answer({"error": "Already exists", "slug": slug}, 409)
                about = {"title": wanted["title"], "owner": {"name": owner}, "private": wanted["private"], "items": []}
                about |= {"slug": slug, "lastUpdated": DATE, "position": 0, "theme": "blue", "upvotes": 0}
                hub.collections[slug] = about
            elif slug not in hub.collections:
                raise Refused(404, "Collection not found")
            elif wanted is not None:
                items = hub.collections[slug]["items"]
                if any(item["id"] == wanted["item"]["id"] for item in items):
                    return self.answer({"error": "Item already in collection"}, 409)
                items.append({"_id": str(len(items)), "position": len(items), **wanted["item"]})
            self.answer(hub.collections[slug])

        def open(self, kind: str, repo_id: str, write: bool = False) -> Repository:
            repository, owner = hub.repositories.get((kind, repo_id)), repo_id.split("/")[0]
            if repository is None or not hub.may_read(self.user, repository, owner):
                raise Refused(404 if self.user else 401, "Repository not found", "RepoNotFound")
            if write and not hub.may_write(self.user, owner):
                raise Refused(403, f"You don't have write access to {repo_id}")
            return repository

        def at(self, repository: Repository, revision: str) -> str:
            if (commit := repository.resolve(revision)) is None:
                raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            return commit

        def api(self, kind: str, repo_id: str, rest: list[str], body: bytes) -> None:
            writes = bool(rest) and rest[0] in ("preupload", "commit", "branch")
            repository = self.open(kind, repo_id, writes)
            match rest:
                case [] | ["revision", _]:
                    self.info(repository, repo_id, rest[1] if rest else "main")
                case ["tree", revision, *path]:
                    self.tree(repository, revision, "/".join(path))
                case ["paths-info", revision]:
                    form = json.loads(body) if body.startswith(b"{") else parse_qs(body.decode())
                    files = repository.commits[self.at(repository, revision)]
                    found = [files[path].listing(path) for path in form["paths"] if path in files]
                    folders = [path for path in form["paths"] if any(name.startswith(f"{path}/") for name in files)]
                    self.answer(found + [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders])
                case ["refs"]:
                    branches = [
                        {"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid}
                        for name, oid in repository.branches.items()
                    ]
                    self.answer({"branches": branches, "converts": [], "tags": []})
                case ["branch", branch]:
                    if branch in repository.branches:
                        raise Refused(409, "Reference already exists")
                    repository.branches[branch] = repository.branches["main"]
                    self.answer({})
                case ["preupload", revision]:
                    self.preupload(repository.commits[self.at(repository, revision)], json.loads(body)["files"])
                case ["commit", revision]:
                    lines = [json.loads(line) for line in body.splitlines() if line.strip()]
                    self.commit(repository, kind, repo_id, revision, lines)
                case _:
                    raise Refused(404, f"{self.command} {self.path} is not known here")

        def info(self, repository: Repository, repo_id: str, revision: str) -> None:
            commit = self.at(repository, revision)
            siblings = [{"rfilename": path} for path in sorted(repository.commits[commit])]
            about = {"_id": "0", "id": repo_id, "sha": commit, "private": repository.private, "siblings": siblings}
            about |= {"lastModified": DATE, "tags": [], "gated": False, "disabled": False, "downloads": 0, "likes": 0}
            self.answer(about | ({"sdk": repository.sdk} if repository.sdk else {}))

        def tree(self, repository: Repository, revision: str, folder: str) -> None:
            files, prefix = repository.commits[self.at(repository, revision)], f"{folder}/" if folder else ""
            inside = {path: file for path, file in sorted(files.items()) if path.startswith(prefix)}
            if folder and not inside:
                raise Refused(404, f"{folder} does not exist", "EntryNotFound")
            folders = {prefix + path[len(prefix) :].split("/")[0] for path in inside if "/" in path[len(prefix) :]}
            if self.query.get("recursive", ["False"])[0].lower() in ("true", "1"):
                parents = (
                    "/".join(path.split("/")[:depth]) for path in inside for depth in range(1, path.count("/") + 1)
                )
                folders = {parent for parent in parents if parent.startswith(prefix)}
            else:
                inside = {path: file for path, file in inside.items() if "/" not in path[len(prefix) :]}
            listed = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
            self.answer(listed + [file.listing(path) for path, file in inside.items()])

        def preupload(self, files: dict[str, File], wanted: list[dict]) -> None:
            answer = []
            for one in wanted:
                mode = "lfs" if one["size"] >= LARGE else "regular"
                known = {"oid": files[one["path"]].etag} if one["path"] in files else {}
                answer.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False, **known})
            self.answer({"files": answer})

        def batch(self, wanted: dict) -> None:
            objects = []
            for one in wanted["objects"]:
                if one["oid"] not in hub.objects:  # what has arrived need not be sent again
                    base = f"{hub.endpoint}/{self.path.strip('/').removesuffix('/batch')}"
                    upload, verify = {"href": f"{hub.endpoint}/storage/{one['oid']}"}, {"href": f"{base}/verify"}
                    one["actions"] = {"upload": upload, "verify": verify}
                objects.append(one)
            self.answer({"transfer": "basic", "objects": objects})

        def verify(self, wanted: dict) -> None:
            if len(hub.objects.get(wanted["oid"], b"")) != wanted["size"]:
                raise Refused(404, "Object not found")
            self.answer({})

        def store(self, oid: str) -> None:
            """A PUT to the address that `batch` gave: signed on the real Hub, so without a token."""
            length = int(self.headers.get("Content-Length") or 0)
            if hub.is_next_interrupted():
                self.rfile.read(length // 2)
                hub.reached.set()
                if hub._hold:
                    hub.released.wait(600)
                self.close_connection = True
                return
            content = self.rfile.read(length)
            if hashlib.sha256(content).hexdigest() != oid:
                raise Refused(400, "The content does not match its checksum")
            with hub.lock:
                hub.objects[oid] = content
                hub.stored.append(oid)
            self.answer({})

        def commit(self, repository: Repository, kind: str, repo_id: str, revision: str, lines: list[dict]) -> None:
            if revision not in repository.branches:
                raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            files = dict(repository.commits[repository.branches[revision]])
            message = ""
            for line in lines:
                value = line["value"]
                match line["key"]:
                    case "header":
                        message = value["summary"]
                    case "file":
                        files[value["path"]] = File(base64.b64decode(value["content"]), large=False)
                    case "lfsFile":
                        if value["oid"] not in hub.objects:
                            raise Refused(400, f"{value['path']} was never uploaded")
                        files[value["path"]] = File(hub.objects[value["oid"]], large=True)
                    case "deletedFile":
                        files.pop(value["path"], None)
            oid = repository.commit(revision, files, message)
            url = f"{hub.endpoint}/{PREFIXES[kind]}{repo_id}/commit/{oid}"
            self.answer({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

        def serve(self, kind: str, repo_id: str, revision: str, path: str) -> None:
            repository = self.open(kind, repo_id)
            commit = self.at(repository, revision)
            if path not in repository.commits[commit]:
                raise Refused(404, f"{path} does not exist on {revision}", "EntryNotFound")
            file = repository.commits[commit][path]
            headers = {"X-Repo-Commit": commit, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
            if file.large:
                headers |= {"X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
            content, status = file.content, 200
            if wanted := self.headers.get("Range"):
                first, last = wanted.removeprefix("bytes=").split("-")
                start = int(first) if first else max(0, len(content) - int(last))
                stop = min(int(last), len(content) - 1) if first and last else len(content) - 1
                headers["Content-Range"] = f"bytes {start}-{stop}/{len(content)}"
                content, status = content[start : stop + 1], 206
            self.send(content, status, headers | {"Content-Type": "application/octet-stream"})

        def read_chunks(self) -> bytes:
            content = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def answer(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
            self.send(json.dumps(content).encode(), status, {"Content-Type": "application/json", **(headers or {})})

        def send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    return Handler
