"""Which words and sentences are contexts made of, where the tokenizer brings none of its own?

No name, noun or sentence shares a word with another list, so that a word asked for stands where it was put and nowhere
else; none begins another one of its list.
"""

from __future__ import annotations

_NAMES = """
Aaron Abby Adam Alan Alice Amy Andrew Angela Anna Anthony Arthur Barbara Ben Betty Bill Bob Brian Bruce Carl Carol
Charles Chris Claire Colin Craig Daniel David Dean Dennis Diana Donald Donna Dorothy Douglas Edward Elizabeth Ellen
Emily Emma Eric Ethan Eva Frank Fred Gary George Grace Graham Greg Hannah Harold Harry Helen Henry Howard Hugh Ian
Isaac Jack Jacob James Jane Jason Jean Jeff Jennifer Jerry Jessica Jim Joan John Jordan Joseph Josh Julia Karen Kate
Keith Kelly Kenneth Kevin Kim Larry Laura Lee Leo Lewis Linda Lisa Louis Lucas Lucy Luke Margaret Maria Mark Martin
Mary Matt Max Michael Michelle Mike Nancy Nathan Neil Nick Nicole Noah Nora Oliver Oscar Patricia Paul Peter Philip
Rachel Ralph Raymond Rebecca Richard Robert Roger Rose Roy Ruth Ryan Sally Sam Sandra Sarah Scott Sean Simon Sophie
Stephen Steve Stuart Susan Ted Teresa Thomas Tim Tom Tony Victor Vincent Walter Wayne William
"""
NAMES = tuple(_NAMES.split())
"""Keys."""

_NOUNS = """
acorn anchor apple apron arrow autumn bacon badge bakery ballet bamboo banana banner barrel basket beacon blanket
bottle bread bridge bronze brush bucket butter button cabin cactus camel candle canyon carpet castle cattle ceiling
cellar chalk cheese cherry chimney circus clay clock coconut coffee comet copper coral cotton cradle crystal curtain
daisy desert diamond dolphin donkey dragon drum duck dust eagle earth elbow elephant engine envelope falcon feather
fence ferry finger flute forest fossil fountain fox frog fruit funnel garlic ghost ginger glacier glove goat gold
goose grape gravel guitar hammer harvest hat hawk helmet honey horn horse hotel ice igloo ink insect iron island
ivory jacket jaguar jelly jewel juice jungle kettle kite kitten knife knight ladder lake lamp lantern leather lemon
lion lizard lobster magnet mango maple marble market meadow melon mirror monkey moon motor mountain mouse museum
napkin needle nest nickel noodle novel nurse oak ocean olive onion orange otter oven owl oyster palace panda paper
parrot peach pearl pencil pepper piano pigeon pillow pilot pirate planet plum pocket pony potato puppet quartz queen
quilt rabbit radio raven ribbon rice ring river robot rocket roof rope ruby saddle sailor salmon salt sand scarf
shark sheep shield silk silver skate slipper snake soap soup spider spoon statue stone storm sugar sword tailor
temple tent thunder tiger timber toast tomato torch tower tractor tulip tunnel turtle umbrella uncle uniform valley
vase velvet vinegar violin volcano wagon walnut water whale wheat wheel whistle willow winter wolf wool yacht yarn
yogurt zebra zinc
"""
NOUNS = tuple(_NOUNS.split())
"""Values."""

SENTENCES = (
    " The road goes on for a long way.",
    " Some days are better than others.",
    " It was late when they came home.",
    " Nobody knew what to say.",
    " A light wind came from the south.",
    " The shop closes at six.",
    " Most people like a good story.",
    " We walked for an hour and then sat down.",
    " There was little left to do.",
    " The children were playing outside.",
    " He put the book back on the shelf.",
    " She wrote a long letter to her sister.",
    " They had dinner and talked about the past.",
    " The street was quiet that evening.",
    " Rain fell all through the night.",
    " In the morning the air was clear.",
    " You can see the hills from here.",
    " The old house has a red door.",
    " Lunch was ready before noon.",
    " Music came from the next room.",
    " The bus was full again today.",
    " Many things change over the years.",
    " It takes some time to learn this.",
    " The garden looked nice in spring.",
    " A man stood at the corner and waited.",
    " The news was not as bad as we thought.",
    " Everyone laughed at the joke.",
    " They left early to avoid the crowd.",
    " The table was set for four.",
    " Work began again on Monday.",
    " The sky turned dark toward evening.",
    " I have never been there before.",
    " Her brother lives in the next town.",
    " The meeting lasted much too long.",
    " Snow covered the fields.",
    " The path leads down to the sea.",
    " He opened the door and looked around.",
    " The teacher asked a simple question.",
    " We will come back another time.",
    " The lights went out one by one.",
)
"""What stands around the needles and says nothing about them."""

SHORT_SENTENCES = (" No.", " Yes.", " Fine.", " Maybe.", " Of course.", " Time passed.")
"""What fills the last tokens of a space: of lengths close to one another, so that sums of them reach any length."""
