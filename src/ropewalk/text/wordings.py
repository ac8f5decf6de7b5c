"""Wordings of facts, and the words from which their keys and values are drawn.

A fact says that a key has a value; its question ends where the value follows. `WORDINGS` are for search,
training and evaluation. No training text of this package has a wording of `HELD_OUT_WORDINGS`, so that these
show whether a model finds facts, or has learnt some sentences.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How a fact and its question are worded.

    Attributes:
        statement: with `{key}` and `{value}`.
        question: with `{key}`; a space and the value follow it.
        end: what follows the value of an answer.
    """

    name: str
    statement: str
    question: str
    end: str = "."


WORDINGS: tuple[Wording, ...] = (
    Wording(name="code", statement="The code of {key} is {value}.", question="The code of {key} is"),
    Wording(
        name="label",
        statement="Remember that {key} has the label {value}.",
        question="Which label does {key} have? The label is",
    ),
    Wording(
        name="comment",
        statement="# The value of {key} is {value}.",
        question="# What is the value of {key}? It is",
    ),
    Wording(name="assignment", statement="{key} = {value}", question="assert {key} ==", end="\n"),
    Wording(
        name="record",
        statement="Record of {key}: {value}.",
        question="What does the record of {key} say? It says",
    ),
    Wording(
        name="door",
        statement="To open the door of {key}, type {value}.",
        question="To open the door of {key}, type",
    ),
    Wording(
        name="ticket",
        statement="{value} is the ticket that {key} holds.",
        question="Which ticket does {key} hold? The ticket is",
    ),
    Wording(
        name="secret",
        statement="The secret of {key}, known to nobody, is {value}.",
        question="What is the secret of {key}? It is",
    ),
    Wording(
        name="call",
        statement="When {key} called, we wrote down {value}.",
        question="What did we write down when {key} called? We wrote down",
    ),
    Wording(
        name="parcel",
        statement="The parcel for {key} has the mark {value}.",
        question="The mark on the parcel for {key} is",
    ),
    Wording(
        name="entry",
        statement='{{"{key}": "{value}"}}',
        question='The entry "{key}" has the value',
    ),
    Wording(
        name="setting",
        statement="Set {key} to {value} before the start.",
        question="Before the start, set {key} to",
    ),
)

HELD_OUT_WORDINGS: tuple[Wording, ...] = (
    Wording(
        name="register",
        statement="In the register, {key} stands beside {value}.",
        question="What stands beside {key} in the register? Beside it stands",
    ),
    Wording(
        name="badge",
        statement="The badge that belongs to {key} reads {value}.",
        question="The badge that belongs to {key} reads",
    ),
    Wording(
        name="password",
        statement="{value} was chosen by {key} as a password.",
        question="The password that {key} chose was",
    ),
    Wording(name="option", statement="# option {key}: {value}", question="# the option {key} was"),
    Wording(
        name="signal",
        statement="With {key} the team agreed on the signal {value}.",
        question="On which signal did the team agree with {key}? They agreed on",
    ),
    Wording(
        name="table",
        statement="| {key} | {value} |",
        question="In the table, the cell next to {key} contains",
    ),
)

# fmt: off
NAMES = (
    "Ada", "Amos", "Anna", "Boris", "Carla", "Cora", "Dan", "Diana", "Edgar", "Ella", "Emil", "Erik",
    "Fiona", "Frank", "Gina", "Greta", "Hans", "Helen", "Igor", "Irene", "Ivan", "Jonas", "Julia",
    "Karl", "Kira", "Leo", "Lena", "Marco", "Maria", "Max", "Mona", "Nadia", "Nils", "Nina", "Olga",
    "Oscar", "Paul", "Petra", "Quinn", "Rita", "Robin", "Rosa", "Sam", "Sara", "Simon", "Sofia", "Tara",
    "Thomas", "Tina", "Ulla", "Vera", "Victor", "Wanda", "Werner", "Xenia", "Yara", "Yuri", "Zoe",
)
SURNAMES = (
    "Adler", "Berg", "Brand", "Cole", "Dorn", "Ellis", "Falk", "Frost", "Gold", "Grant", "Hale", "Hart",
    "Ives", "Jansen", "Keller", "King", "Lang", "Lind", "Marsh", "Moore", "Nash", "Novak", "Olsen",
    "Parker", "Quist", "Reed", "Roth", "Sand", "Stone", "Tate", "Thorn", "Unger", "Vance", "Wolf",
    "Young", "Ziegler",
)
WORDS = (
    "amber", "anchor", "apple", "arrow", "autumn", "basket", "beacon", "bottle", "branch", "bridge",
    "butter", "candle", "carbon", "castle", "cedar", "cherry", "circle", "cobalt", "copper", "coral",
    "cotton", "crystal", "desert", "dragon", "eagle", "echo", "ember", "engine", "falcon", "feather",
    "field", "flint", "forest", "garden", "ginger", "glacier", "granite", "hammer", "harbor", "hazel",
    "honey", "island", "ivory", "jacket", "jungle", "kettle", "ladder", "lantern", "lemon", "linen",
    "magnet", "maple", "marble", "meadow", "mirror", "mountain", "needle", "nickel", "ocean", "olive",
    "onion", "orange", "orchid", "oxide", "paper", "pepper", "pillow", "planet", "pocket", "quartz",
    "rabbit", "ribbon", "river", "rocket", "saddle", "silver", "spider", "spring", "stone", "summer",
    "table", "temple", "thunder", "timber", "tunnel", "valley", "velvet", "violet", "walnut", "water",
    "window", "winter", "yellow", "zebra",
)
# fmt: on
