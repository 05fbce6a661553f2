"""Links to bytes: what a client uploads to and downloads from without showing its key again.

A link carries a signature made with the server's key, like the presigned links of an object store, so it
opens one path for one method and nothing else.
"""

import hashlib
import hmac
from dataclasses import dataclass
from urllib.parse import quote


def signature(key: str, method: str, path: str) -> str:
    """Proof that the server made the link `path` for `method`."""
    return hmac.new(key.encode(), f"{method} {path}".encode(), hashlib.sha256).hexdigest()


def proof(key: str, nonce: str) -> str:
    """Proof that a server knows the key, for a client that has just made up `nonce`.

    No method starts with a line break, so this is never the signature of a link.
    """
    return signature(key, "\n", nonce)


@dataclass(frozen=True)
class Links:
    """Makes links that start with `base`, the address under which the client reached us."""

    base: str
    key: str

    def _make(self, method: str, path: str) -> str:
        return f"{self.base}{quote(path)}?signature={signature(self.key, method, path)}"

    def upload(self, path: str) -> str:
        """A link to PUT bytes to `path`, which starts with a slash."""
        return self._make("PUT", path)

    def download(self, path: str) -> str:
        """A link to GET the bytes of `path`, which starts with a slash."""
        return self._make("GET", path)
