"""Which clips must stay on the same side of a split, and the splits themselves.

Twins such as "man farmer", "woman farmer" and "farmer" look alike and share most of their words. If one were trained
on and another tested, the test would measure memory. So all variants of one emoji form a *family*, and splits are
made of whole families.
"""

import hashlib
import re

SPLITS = {"test": 420, "validation": 150, "finetune": 400, "pretrain": None}
"""Clips wanted per split, in the order in which splits are filled; the last one takes all the rest.

Validation and test are filled first, because only they refuse captions that appear twice.
"""

_SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
_IGNORED = _SKIN_TONES | {"200d", "2640", "2642", "1f9b0", "1f9b1", "1f9b2", "1f9b3", "27a1"}
_ADULTS = {"1f468", "1f469", "1f9d1"}
_CHILDREN = {"1f466", "1f467", "1f9d2"}

_GENDER_WORDS = re.compile(
    r"\b(wo)?m[ae]n('s)?\b|\b(person|people|boys?|girls?|child|children|baby|older|blond|blonde|red|curly|white|bald)\b"
    r"|\b(hair|beard|facing|right|with|in|and|holding|hands?)\b|[:,()]"
)
_TWINS = (
    {"prince", "princess", "person with crown"},
    {"Santa Claus", "Mrs. Claus", "Mx Claus"},
    {"merman", "mermaid", "merperson"},
    {"man", "woman", "person", "boy", "girl", "child", "baby", "old man", "old woman", "older person"}
    | {"person: blond hair", "person: beard"},
)


def has_skin_tone(video_id: str) -> bool:
    return not _SKIN_TONES.isdisjoint(video_id.split("-"))


def assign_families(english_names: dict[str, str]) -> dict[str, str]:
    """Map every video id to its family, named after the family's first video id.

    Two ids are of one family if their code points agree but for gender, hair, age and direction (all family groups
    and all couples are one family each), or if their English names do. Both rules are needed: "man dancing" and
    "woman dancing" share no code point, "merman" and "mermaid" no word.

    Args:
        english_names: video id (dash-joined code points) → CLDR short name in English.
    """
    keys_of = {}
    for video_id, name in english_names.items():
        keys_of[video_id] = [_code_point_key(video_id), _name_key(name)]
        keys_of[video_id] += [f"twins {i}" for i, twins in enumerate(_TWINS) if name in twins]

    # Union-find, with keys and ids as nodes.
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for video_id, keys in keys_of.items():
        for key in keys:
            parent[root(key)] = root(video_id)

    first_of: dict[str, str] = {}
    for video_id in sorted(english_names):
        first_of.setdefault(root(video_id), video_id)
    return {video_id: first_of[root(video_id)] for video_id in english_names}


def assign_splits(
    families: dict[str, str], names: dict[str, dict[str, str]], seed: int
) -> tuple[dict[str, str], list[str]]:
    """Distribute whole families over pretrain, finetune, validation and test.

    Families are taken in the order of a hash of (seed, family). A clip whose caption already appears in
    validation or test, in the same language, is *dropped* from the benchmark (moving it would break up its
    family), so that every query there has exactly one right answer.

    Args:
        families: video id → family.
        names: video id → language → caption.
        seed: another seed gives another split of the same clips.

    Returns:
        video id → split (without the dropped clips), and the sorted ids of the dropped clips.
    """
    members: dict[str, list[str]] = {}
    for video_id in sorted(families):
        members.setdefault(families[video_id], []).append(video_id)
    order = sorted(members, key=lambda family: hashlib.blake2b(f"{seed} {family}".encode()).digest())

    split_of: dict[str, str] = {}
    dropped: list[str] = []
    queue = iter(order)
    for split, wanted in SPLITS.items():
        count = 0
        seen: set[tuple[str, str]] = set()
        while wanted is None or count < wanted:
            family = next(queue, None)
            if family is None:
                break
            for video_id in members[family]:
                captions = {(language, text.casefold()) for language, text in names[video_id].items()}
                if split in ("validation", "test") and not seen.isdisjoint(captions):
                    dropped.append(video_id)
                    continue
                seen |= captions
                split_of[video_id] = split
                count += 1
    return split_of, sorted(dropped)


def _code_point_key(video_id: str) -> str:
    points = [point for point in video_id.split("-") if point not in _IGNORED] or [video_id]
    people = [point for point in points if point in _ADULTS | _CHILDREN]
    if len(people) > 1 or points[0] in {"1f48f", "1f491", "1f46a", "1f46b", "1f46c", "1f46d"}:
        return "code points of a group of people"
    return "code points " + "-".join("adult" if point in _ADULTS else point for point in points)


def _name_key(name: str) -> str:
    """The name without its words for gender, age, hair and direction; the whole name if nothing else is left."""
    if not re.search(r"\b((wo)?m[ae]n|person|people)\b", name):
        return f"name {name}"
    rest = " ".join(_GENDER_WORDS.sub(" ", name).split())
    return f"name {rest or name}"
