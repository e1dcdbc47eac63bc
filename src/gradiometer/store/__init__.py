"""A run on disk: one SQLite file, write-ahead logged, read while it is written.

| table | holds |
|---|---|
| ``details`` | name, start, models, optimizers, versions, whether it finished; JSON by key |
| ``identities`` | every site and parameter once; JSON by number |
| ``readings`` | one packed reading a row, see `packing` |
| ``scalars`` | losses of every step and what was recorded; packed rows of one name and one commit |

Every row carries a checksum, and ``details`` says how many rows there are: what is damaged is told, not believed.

The file says what it is by SQLite's ``application_id``, and its schema by ``user_version``.
"""

from gradiometer.store.memory import MemoryRun
from gradiometer.store.reader import FOLDER, find, free_path, load, newest
from gradiometer.store.writer import RunWriter

__all__ = ["FOLDER", "MemoryRun", "RunWriter", "find", "free_path", "load", "newest"]
