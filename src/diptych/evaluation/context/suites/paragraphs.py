"""What can be asked without a download? Paragraphs about people and places that do not exist.

Nobody has read about them in training, so that only the text can tell. They come in pairs, the second about something
that the first names: each has a question of its own, and a third question needs both.
"""

from __future__ import annotations

from typing import NamedTuple


class Pair(NamedTuple):
    """Two paragraphs, a question and answer for each, and a question and answer that need both."""

    first: str
    ask_first: str
    answer_first: str
    second: str
    ask_second: str
    answer_second: str
    ask_both: str
    answer_both: str


def _pairs(text: str) -> tuple[Pair, ...]:
    return tuple(Pair(*block.strip().split("\n")) for block in text.strip().split("\n\n"))


PAIRS = _pairs("""
Ida Morrow was a clockmaker who spent her youth in Tarnbeck. She built the first clock with a glass pendulum.
What kind of pendulum did Ida Morrow's first clock have?
glass
Tarnbeck is a small town on the river Ull. Its stone bridge was opened in 1764, and its market sells mostly eels.
What does the market of Tarnbeck mostly sell?
eels
When was the bridge opened in the town where Ida Morrow spent her youth?
1764

The Osterlin Prize is given every third year for work on mosses. It was founded by Bertil Gane, a retired dentist.
For work on what is the Osterlin Prize given?
mosses
Bertil Gane pulled teeth in Kvarn for forty years. He kept a parrot named Admiral and never owned a carriage.
What was the name of Bertil Gane's parrot?
Admiral
In which town did the founder of the Osterlin Prize work?
Kvarn

The ferry Silver Wren crosses the Bay of Dole twice a day. She was built in a yard at Pellworth and carries ninety cars.
How many cars does the Silver Wren carry?
ninety
Pellworth has built ships since 1820. Its yard is known for hulls of larch, and its football club plays in violet.
In what colour does the football club of Pellworth play?
violet
For hulls of which wood is the yard known that built the Silver Wren?
larch

Professor Anselm Hurd studied the sleep of hedgehogs at the University of Greyford. He wrote eleven books about it.
Whose sleep did Anselm Hurd study?
hedgehogs
The University of Greyford was founded by a guild of weavers. Its library stands on an island and lends no atlases.
What does the library of the University of Greyford not lend?
atlases
Who founded the university at which Anselm Hurd studied sleep?
weavers

The opera The Drowned Mill was first sung in Castorra. Its composer, Lena Vash, finished the overture on a train.
Where did the composer of The Drowned Mill finish the overture?
train
Castorra is the capital of the province of Meln. Its opera house burnt down in 1903 and was built again of red brick.
Of what province is Castorra the capital?
Meln
When did the opera house burn down in the city where The Drowned Mill was first sung?
1903

Mount Ebrel is the highest peak of the Sarn range. It was first climbed by Tove Lind, who carried a barometer.
What did the first climber of Mount Ebrel carry?
barometer
Tove Lind taught geography at a school for girls. She was allergic to wool and climbed in coats of oiled linen.
What was Tove Lind allergic to?
wool
Which subject did the first climber of Mount Ebrel teach?
geography

The painter Josse Quill used no blue. His largest picture, Harvest at Noon, hangs in the museum of Vellin.
Which colour did Josse Quill not use?
blue
The museum of Vellin is a former salt store. It opens at noon, and visitors leave their umbrellas with a guard.
What do visitors of the museum of Vellin leave with a guard?
umbrellas
What was the museum formerly in which Harvest at Noon hangs?
salt store

The comet Arden-Moss returns every 71 years. One of those who found it, Pia Arden, was a postal clerk.
Every how many years does the comet Arden-Moss return?
71
Pia Arden watched the sky from the roof of a bakery. She named a crater after her grandmother, Philippa.
After whom did Pia Arden name a crater?
Philippa
From the roof of what did the postal clerk who found a comet watch the sky?
bakery

The Lantern Party won the election in Dorrin by four votes. It was led by Hamo Brisk, formerly a lighthouse keeper.
By how many votes did the Lantern Party win?
four
Hamo Brisk wrote his speeches in pencil. He made Thursday a holiday and moved the ministry of fish to the coast.
Which day did Hamo Brisk make a holiday?
Thursday
With what did the leader of the Lantern Party write his speeches?
pencil

The bread called trullen is baked with caraway and beer. It comes from the valley of Oss, where it is eaten cold.
With what is trullen baked besides beer?
caraway
The valley of Oss is closed by snow from November to April. Its people keep goats and settle quarrels by wrestling.
How do the people of the valley of Oss settle quarrels?
wrestling
What animals do the people keep in the valley that trullen comes from?
goats

The Hadley engine runs on turpentine. It was invented by Rosa Hadley, who sold the patent for two hundred crowns.
On what does the Hadley engine run?
turpentine
Rosa Hadley grew up in a mill. She played the bassoon, and her brother Edmund became a bishop.
What instrument did Rosa Hadley play?
bassoon
What did the brother of the inventor of the Hadley engine become?
bishop

The treaty of Lowmere ended the War of the Ditches. It was signed on a barge, since neither side would host the other.
On what was the treaty of Lowmere signed?
barge
The War of the Ditches began over a stolen weathercock. It lasted nine weeks and cost the life of one mule.
How long did the War of the Ditches last?
nine weeks
Over what did the war begin that the treaty of Lowmere ended?
weathercock

The beetle Carabus fulgens shines green at night. It lives only in the caves of Tremble Hill, where it eats fungus.
What does the beetle Carabus fulgens eat?
fungus
Tremble Hill is hollow, and its caves are eleven kilometres long. A hermit named Ossian guards the entrance.
How long are the caves of Tremble Hill?
eleven kilometres
Who guards the entrance to the caves in which Carabus fulgens lives?
Ossian

The novel A House of Salt tells of three sisters. Its author, Emil Rook, wrote it in prison in eighteen days.
In how many days was A House of Salt written?
eighteen
Emil Rook was sentenced for forging stamps. After his release he opened a shop for kites and never wrote again.
For what was Emil Rook sentenced?
forging stamps
What kind of shop did the author of A House of Salt open?
kites

The railway from Brant to Sill has thirty-one tunnels. Its chief engineer was Marta Oyen, who feared the dark.
How many tunnels has the railway from Brant to Sill?
thirty-one
Marta Oyen drew her plans on wallpaper. Her office was above a pharmacy, and she dined on soup alone.
On what did Marta Oyen draw her plans?
wallpaper
Above what was the office of the chief engineer of the railway from Brant to Sill?
pharmacy

The island of Fenno has more sheep than people. Its only road was paved by a company from Harl, with crushed shells.
With what was the road of Fenno paved?
crushed shells
Harl is a port known for its smoked herring. Its mayor is elected by drawing straws and wears a hat of pewter.
Of what is the hat of the mayor of Harl?
pewter
For what is the port known from which the company came that paved the road of Fenno?
smoked herring

The game of skelter is played with seven dice. Its rules were printed by Otto Pym, a maker of playing cards.
With how many dice is skelter played?
seven
Otto Pym lost his left thumb in a press. He married an acrobat, and their house in Lisk had no stairs.
What did the house of Otto Pym not have?
stairs
Which finger did the man lose who printed the rules of skelter?
thumb

The orchestra of Wendle plays without a conductor. Its concerts are paid for by the Finch brewery.
Without what does the orchestra of Wendle play?
conductor
The Finch brewery makes a beer of nettles. It was founded in 1688 by monks, and its horses are all grey.
Of what is the beer of the Finch brewery made?
nettles
When was the brewery founded that pays for the concerts of the orchestra of Wendle?
1688

The desert of Karsa is crossed by one caravan a year. It is led by Yusra Dane, who steers by the smell of the wind.
By the smell of what does Yusra Dane steer?
wind
Yusra Dane speaks nine languages. She trades in saffron, and her lead camel is called Pepper.
What is the lead camel of Yusra Dane called?
Pepper
In what does the leader of the caravan trade that crosses the desert of Karsa?
saffron

The dictionary of Old Brennish was begun by Cosmo Tarr. He died at the word quince, and his nephew finished it.
At which word did Cosmo Tarr die?
quince
The nephew of Cosmo Tarr, Lucan, was a swimming teacher. He kept the cards for the dictionary in a bathtub.
In what did Lucan Tarr keep the cards for the dictionary?
bathtub
What did the man teach who finished the dictionary of Old Brennish?
swimming
""")
