"""Vocabulary of the grammar: subjects, their attributes, and the places and lights around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class PlaceKind:
    """Places of one kind, in which the same subjects are plausible.

    Attributes:
        preposition: "on", "in" or "over".
        places: Places without an article, so that "an empty ..." can be formed too.
        lights: Phrases of light or time of day.
    """

    preposition: str
    places: tuple[str, ...]
    lights: tuple[str, ...]


@dataclass(frozen=True)
class SubjectGroup:
    """Subjects of one kind, each of which combines with all attributes and kinds of places.

    Attributes:
        attributes: Attributes; one that begins with "in " follows the subject, others precede it.
        subjects: Subjects without an article.
        place_kinds: Names in PLACES.
    """

    attributes: tuple[str, ...]
    subjects: tuple[str, ...]
    place_kinds: tuple[str, ...]


# Lights by the kind of place.
_DAY: Final = ("in the morning sun", "under an overcast sky", "at golden hour", "in light fog")
_ROOM: Final = (
    "in soft window light",
    "in warm lamp light",
    "in bright daylight",
    "in the evening",
)
_SKY: Final = ("in the morning", "at noon", "before sunset", "at dusk")
_DEEP: Final = ("in clear blue light", "in dim green light", "under slanting sunbeams")

PLACES: Final[dict[str, PlaceKind]] = {
    "lawn": PlaceKind(
        "on", ("garden lawn", "city park lawn", "flower meadow", "village green"), _DAY
    ),
    "farm": PlaceKind("in", ("green pasture", "farm yard", "stubble field", "orchard"), _DAY),
    "forest": PlaceKind(
        "in", ("forest clearing", "mossy pine forest", "birch grove", "autumn forest"), _DAY
    ),
    "savanna": PlaceKind(
        "on", ("dry savanna", "dusty plain", "grassy hill", "rocky plateau"), _DAY
    ),
    "snow": PlaceKind(
        "on", ("snowy field", "frozen lake", "snowy mountain slope", "snow-covered path"), _DAY
    ),
    "beach": PlaceKind(
        "on", ("sandy beach", "pebble beach", "wooden pier", "flat rock by the sea"), _DAY
    ),
    "perch": PlaceKind(
        "on", ("bare branch", "wooden fence", "mossy stone wall", "red tiled roof"), _DAY
    ),
    "street": PlaceKind(
        "in", ("cobbled street", "city square", "narrow alley", "market square"), _DAY
    ),
    "road": PlaceKind(
        "on", ("country road", "desert highway", "mountain road", "parking lot"), _DAY
    ),
    "water": PlaceKind("on", ("calm lake", "wide river", "small harbour", "reed-lined pond"), _DAY),
    "floor": PlaceKind(
        "on",
        ("living room floor", "wooden hallway floor", "bedroom carpet", "tiled kitchen floor"),
        _ROOM,
    ),
    "table": PlaceKind(
        "on", ("kitchen table", "wooden desk", "marble counter", "white windowsill"), _ROOM
    ),
    "workbench": PlaceKind(
        "on", ("workbench", "garage floor", "steel shelf", "wooden crate"), _ROOM
    ),
    "stage": PlaceKind("on", ("theatre stage", "concert hall stage", "small club stage"), _ROOM),
    "sky": PlaceKind("in", ("clear sky", "cloudy sky", "hazy sky"), _SKY),
    "reef": PlaceKind("over", ("coral reef", "sandy sea bed", "kelp forest"), _DEEP),
}
"""Kinds of places by name; each place can be empty, which is the background's text."""

# Attributes that several groups share.
_FURS: Final = ("black", "white", "grey", "brown", "ginger", "fluffy", "sleepy", "young")
_PAINTS: Final = ("red", "blue", "yellow", "green", "white", "black", "rusty", "old")
_CLOTHES: Final = (
    "red coat",
    "yellow raincoat",
    "white shirt",
    "green sweater",
    "grey jacket",
    "striped scarf",
)

SUBJECTS: Final[tuple[SubjectGroup, ...]] = (
    SubjectGroup(_FURS, ("cat", "kitten", "rabbit", "hamster"), ("lawn", "floor", "table")),
    SubjectGroup(
        (*_FURS, "long-haired"),
        ("dog", "puppy", "terrier", "sheepdog", "greyhound", "poodle"),
        ("lawn", "floor", "beach", "snow", "street"),
    ),
    SubjectGroup(
        ("brown", "white", "black", "spotted", "shaggy", "young"),
        ("horse", "cow", "goat", "donkey", "pig", "llama", "calf"),
        ("farm", "lawn"),
    ),
    SubjectGroup(
        ("young", "grey", "brown", "wet", "watchful", "shaggy"),
        ("fox", "deer", "bear", "wolf", "hare", "badger", "squirrel", "hedgehog"),
        ("forest", "snow"),
    ),
    SubjectGroup(
        ("young", "old", "dusty", "resting", "watchful"),
        ("lion", "zebra", "giraffe", "rhinoceros", "cheetah", "antelope", "meerkat"),
        ("savanna",),
    ),
    SubjectGroup(
        ("small", "colourful", "white", "black", "grey", "ruffled"),
        ("owl", "parrot", "crow", "sparrow", "pigeon", "robin", "kingfisher"),
        ("perch",),
    ),
    SubjectGroup(
        ("white", "brown", "grey", "young"), ("duck", "swan", "goose", "pelican"), ("water", "lawn")
    ),
    SubjectGroup(
        ("white", "large", "dark", "gliding"), ("eagle", "seagull", "stork", "falcon"), ("sky",)
    ),
    SubjectGroup(
        ("striped", "orange", "silver", "spotted", "tiny", "large"),
        ("fish", "sea turtle", "seahorse", "octopus", "stingray"),
        ("reef",),
    ),
    SubjectGroup(
        ("translucent", "glowing", "pale", "tiny", "large"), ("jellyfish", "comb jelly"), ("reef",)
    ),
    SubjectGroup(
        tuple(f"in a {clothes}" for clothes in _CLOTHES),
        (
            "young woman",
            "old man",
            "little girl",
            "little boy",
            "woman with curly hair",
            "man with a long beard",
        ),
        ("street", "lawn", "beach", "floor", "stage"),
    ),
    SubjectGroup(
        _PAINTS,
        ("car", "pickup truck", "motorcycle", "bicycle", "van", "school bus", "scooter", "tractor"),
        ("road", "street"),
    ),
    SubjectGroup(
        ("white", "blue", "wooden", "old", "small"),
        ("rowing boat", "sailing boat", "canoe", "raft"),
        ("water",),
    ),
    SubjectGroup(
        ("red", "striped", "blue", "yellow", "white"),
        ("hot air balloon", "kite", "paper plane", "propeller plane", "parachute"),
        ("sky",),
    ),
    SubjectGroup(
        ("white", "blue", "patterned", "chipped", "shiny", "handmade"),
        ("teapot", "coffee mug", "bowl", "sugar pot", "candlestick", "milk jug"),
        ("table",),
    ),
    SubjectGroup(
        ("clear", "green", "blue", "frosted", "smoky", "dewy"),
        ("glass bottle", "wine glass", "glass vase", "glass jar", "glass bowl", "carafe"),
        ("table",),
    ),
    SubjectGroup(
        ("large", "small", "shimmering", "round"),
        ("soap bubble", "crystal ball"),
        ("lawn", "table", "stage"),
    ),
    SubjectGroup(
        ("fluffy", "striped", "white", "long", "brown"),
        ("feather", "dandelion clock"),
        ("table", "lawn", "beach"),
    ),
    SubjectGroup(
        ("ripe", "fresh", "small", "large", "wet"),
        ("apple", "pineapple", "watermelon", "bunch of grapes", "pear", "lemon", "pumpkin"),
        ("table",),
    ),
    SubjectGroup(
        ("fresh", "small", "dark", "sugared"),
        ("loaf of bread", "chocolate cake", "cheesecake", "pie"),
        ("table",),
    ),
    SubjectGroup(
        ("green", "flowering", "small", "leafy", "wilting"),
        (
            "potted fern",
            "potted cactus",
            "bonsai tree",
            "potted palm",
            "bouquet of wild flowers",
            "potted orchid",
        ),
        ("table", "floor"),
    ),
    SubjectGroup(
        ("wooden", "white", "antique", "modern", "blue"),
        (
            "armchair",
            "rocking chair",
            "bookcase",
            "grandfather clock",
            "chest of drawers",
            "stool",
            "bar cart",
        ),
        ("floor", "stage"),
    ),
    SubjectGroup(
        ("old", "polished", "black", "golden", "worn"),
        ("guitar", "cello", "grand piano", "saxophone", "drum kit", "trumpet", "harp"),
        ("stage", "floor"),
    ),
    SubjectGroup(
        ("rusty", "new", "old", "red", "greasy"),
        ("hammer", "cordless drill", "toolbox", "hand saw", "bench vice", "oil can", "wrench"),
        ("workbench",),
    ),
    SubjectGroup(
        ("colourful", "worn", "small", "old", "red"),
        ("toy train", "teddy bear", "doll", "toy robot", "spinning top", "rocking horse"),
        ("floor", "table", "lawn"),
    ),
    SubjectGroup(
        ("bright", "small", "smoky", "flickering"),
        ("camp fire", "torch flame", "lantern"),
        ("forest", "beach", "snow"),
    ),
    SubjectGroup(
        ("thin", "grey", "white", "dark"),
        ("column of smoke", "puff of steam"),
        ("road", "beach", "sky"),
    ),
)
"""All groups of subjects of the grammar."""
