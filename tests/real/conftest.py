"""What of `tests/e2e` rehearsals on real servers use as well: one a busy machine ended is held again."""

from __future__ import annotations

from tests.e2e.conftest import again as again
