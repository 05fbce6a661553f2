"""Signed links, by which a client uploads or downloads one file without sending its key.

Like the presigned links of an object store, a link has a signature made with the server's key. It
is valid for one path and one method.
"""

import hashlib
import hmac
from dataclasses import dataclass
from urllib.parse import quote


def signature(key: str, method: str, path: str) -> str:
    """The signature of a link to `path` for `method`: 64 hexadecimal digits (HMAC-SHA256)."""
    return hmac.new(key.encode(), f"{method} {path}".encode(), hashlib.sha256).hexdigest()


def proof(key: str, nonce: str) -> str:
    """Proves that a server knows the key, to a client that has chosen a random `nonce`.

    No method contains a line break, so a proof is never the signature of a link.
    """
    return signature(key, "\n", nonce)


@dataclass(frozen=True)
class Links:
    """Makes links that start with `base`, the address by which the client reached this server."""

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
