"""A small Hub on this machine: it answers the requests that huggingface_hub makes to create a repository and upload."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0" * 40


class Hub:
    """Used as a context, it serves at `url`.

    Attributes:
        repositories: the content of each file by its path, for each repository.
        requests: the kinds of all requests, in order.
        refused: the kinds that are answered with 403.
        writers: the owners of repositories that everybody may write to.
    """

    def __init__(self):
        self.repositories, self.requests, self.refused, self.writers = {}, [], set(), {"me"}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, path, body):
        """Return the status and the content of an answer."""
        parts = path.removeprefix("/api/").split("/")
        kind = parts[0] if parts[0] != "models" else (parts[3] if len(parts) > 3 else "info")
        self.requests.append(kind)
        name = "/".join(parts[1:3])
        if kind in self.refused:
            return 403, {"error": f"you may not {kind}"}
        if kind == "repos":
            return self._create(json.loads(body))
        if kind == "validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if name not in self.repositories or (kind == "revision" and parts[4] != "main"):
            return 404, {"error": "not found"}
        if kind == "auth-check" and parts[1] not in self.writers:
            return 403, {"error": "read only"}
        if kind == "preupload":
            return 200, {"files": [self._mode(name, file["path"]) for file in json.loads(body)["files"]]}
        if kind == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return 200, {"commitUrl": f"{self.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
        return 200, {"id": name, "sha": COMMIT, "siblings": []}

    def _create(self, asked):
        owner = asked.get("organization") or "me"
        name = f"{owner}/{asked['name']}"
        if owner not in self.writers:
            return 403, {"error": f"you may not create {name}"}
        status = 409 if name in self.repositories else 200
        self.repositories.setdefault(name, {})
        return status, {"url": f"{self.url}/{name}", "error": "exists"}

    def _mode(self, name, path):
        content = self.repositories[name].get(path)
        oid = None if content is None else hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
        return {"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": oid}

    def _handler(hub):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, content = hub.answer(unquote(urlsplit(self.path).path), body)
                text = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST

            def log_message(self, *_):
                pass

        return Handler
