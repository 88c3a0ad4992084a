"""What `requests` trusts: its own authorities, and those a plan adds. Loads requests: slow, so only here."""

from __future__ import annotations

from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.util.ssl_ import create_urllib3_context

from cockpit.backends.tls import Tls


class TrustingAdapter(HTTPAdapter):
    """A transport that trusts added authorities besides those it is told by `verify`."""

    def __init__(self, tls: Tls, **options: Any) -> None:
        self._tls = tls
        super().__init__(**options)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **self._with_context(options))

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        return super().proxy_manager_for(*args, **self._with_context(options))

    def _with_context(self, options: dict[str, Any]) -> dict[str, Any]:
        if not self._tls.added:
            return options
        context = create_urllib3_context()
        self._tls.add_to(context)
        return {**options, "ssl_context": context}  # what `verify` says is loaded into it as well
