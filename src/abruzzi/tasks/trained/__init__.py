"""Further trained phrasings, in plain text: what the banks of this room add to the first ones. None is held out.

The marks are those of language.py; which slots a kind has follows from the file that joins them (word_phrasings,
table_themes, folder_scenes, date_phrasings, puzzle_phrasings, chain_phrasings). Ids of phrasings are positions: append.
"""

from __future__ import annotations

from collections.abc import Mapping

# kind -> texts
More = Mapping[str, tuple[str, ...]]
