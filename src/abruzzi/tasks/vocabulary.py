"""Names and things that stories draw from. No name is also an English word (May, Will, Rose) and no
two names contain one another, so that the verifier can tell them apart."""

from __future__ import annotations

WOMEN = (
    *("Mia", "Ana", "Lena", "Sara", "Nora", "Ida", "Ella", "Zoe", "Ruth", "Clara", "Tess", "Olga", "Priya", "Aisha"),
    *("Hanna", "Julia", "Maria", "Emma", "Leila", "Yuki", "Ines", "Greta", "Paula", "Vera", "Amina", "Sofia", "Wanda"),
    *("Chloe", "Diana", "Elena", "Fatima", "Helga", "Irina", "Jenny", "Keiko", "Linda", "Marta", "Nadia", "Petra"),
    *("Rosa", "Selma", "Tanja", "Ursula", "Valerie", "Xenia", "Zara", "Berta", "Carmen", "Doris", "Edith"),
)
MEN = (
    *("Ben", "Tom", "Omar", "Luca", "Paul", "Jonas", "Karl", "Leo", "Finn", "Hugo", "Ivan", "Jamal", "Kenji", "Marco"),
    *("Nils", "Oscar", "Pedro", "Rashid", "Simon", "Theo", "Viktor", "Yusuf", "Adam", "Bruno", "Carlos", "David"),
    *("Emil", "Felix", "Georg", "Henry", "Igor", "Jakob", "Kofi", "Lars", "Mateo", "Noah", "Otto", "Rafael", "Samir"),
    *("Tariq", "Uwe", "Walter", "Xavier", "Anton", "Boris", "Dario", "Erik", "Farid", "Gustav", "Milan"),
)

# (singular, plural, what they come in)
THINGS = (
    *(("marble", "marbles", "bag"), ("stamp", "stamps", "envelope"), ("apple", "apples", "basket")),
    *(("button", "buttons", "jar"), ("postcard", "postcards", "packet"), ("sticker", "stickers", "sheet")),
    *(("bead", "beads", "tin"), ("shell", "shells", "bucket"), ("pencil", "pencils", "box"), ("coin", "coins", "roll")),
    *(
        ("candle", "candles", "pack"),
        ("cookie", "cookies", "tin"),
        ("plum", "plums", "crate"),
        ("pear", "pears", "crate"),
    ),
    *(
        ("tulip bulb", "tulip bulbs", "bag"),
        ("screw", "screws", "box"),
        ("nail", "nails", "tin"),
        ("tile", "tiles", "box"),
    ),
    *(("balloon", "balloons", "pack"), ("walnut", "walnuts", "sack"), ("chestnut", "chestnuts", "sack")),
    *(("photo", "photos", "envelope"), ("magnet", "magnets", "set"), ("ribbon", "ribbons", "bundle")),
    *(("envelope", "envelopes", "stack"), ("brick", "bricks", "box"), ("paper clip", "paper clips", "box")),
    *(("egg", "eggs", "carton"), ("orange", "oranges", "net"), ("lemon", "lemons", "net"), ("onion", "onions", "net")),
    *(("potato", "potatoes", "sack"), ("tea bag", "tea bags", "box"), ("playing card", "playing cards", "deck")),
    *(("toy car", "toy cars", "box"), ("badge", "badges", "packet"), ("pebble", "pebbles", "bucket")),
    *(("feather", "feathers", "bag"), ("seed", "seeds", "packet"), ("key ring", "key rings", "bag")),
)

# (singular, plural, lowest and highest price)
GOODS = (
    *(("notebook", "notebooks", 2, 9), ("mug", "mugs", 4, 15), ("lamp", "lamps", 15, 90), ("chair", "chairs", 25, 180)),
    *(("ticket", "tickets", 6, 60), ("book", "books", 8, 35), ("shirt", "shirts", 9, 55), ("plate", "plates", 3, 14)),
    *(
        ("cushion", "cushions", 8, 40),
        ("basket", "baskets", 5, 30),
        ("rope", "ropes", 6, 28),
        ("helmet", "helmets", 20, 95),
    ),
    *(
        ("tent", "tents", 60, 400),
        ("blanket", "blankets", 12, 70),
        ("puzzle", "puzzles", 7, 32),
        ("kite", "kites", 9, 45),
    ),
    *(
        ("bucket", "buckets", 3, 12),
        ("pizza", "pizzas", 7, 16),
        ("sandwich", "sandwiches", 3, 9),
        ("cake", "cakes", 9, 38),
    ),
    *(("scarf", "scarves", 8, 34), ("towel", "towels", 5, 25), ("vase", "vases", 8, 65), ("clock", "clocks", 14, 120)),
    *(("brush", "brushes", 2, 11), ("saw", "saws", 12, 48), ("drill", "drills", 45, 220), ("rake", "rakes", 11, 39)),
    *(
        ("guitar", "guitars", 80, 600),
        ("flute", "flutes", 60, 450),
        ("bike", "bikes", 120, 900),
        ("shelf", "shelves", 30, 160),
    ),
    *(
        ("jar of honey", "jars of honey", 4, 13),
        ("bag of rice", "bags of rice", 2, 12),
        ("pot of paint", "pots of paint", 9, 44),
    ),
    *(("rose bush", "rose bushes", 7, 26), ("apple tree", "apple trees", 18, 75), ("chess set", "chess sets", 15, 85)),
)
MONEY = ("dollars", "euros", "pounds", "francs", "crowns")
