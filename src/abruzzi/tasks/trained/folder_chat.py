"""Trained questions about folders as people chat or write to an office: short, wordy, in a hurry, with a reason.

folders.py joins them.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import More

_STAFF: More = {
    "name": (
        "Who's the lead over in {who}'s team?",
        "I forgot who leads the team {who} is on. Can you tell me?",
        "Name the lead of the team of {who}.",
        "{who} is ill today, so I must inform the team lead. Who is it?",
        "Which colleague has the lead in {who}'s team?",
    ),
    "number": (
        "How many are they in {who}'s team?",
        "Team size of {who}?",
        "I am booking a table for the whole team of {who}. How many members does it have?",
        "Give me the headcount of the team where {who} works.",
        "What is the member count for {who}'s team?",
    ),
    "calc": (
        "Everyone on {who}'s team wears {n} badges. How many badges are worn altogether?",
        "We print {n} badges for each one on {who}'s team. How many does that make in all?",
        "Say each member of the team of {who} collects {n} badges. How many badges have they got together?",
        "A box of {n} badges goes to each member of {who}'s team. How many badges are in all those boxes?",
        "I'd like to hand everyone in {who}'s team {n} badges, so how many should I prepare?",
        "How many badges does it make, {n} for every person in the team that {who} is a member of?",
    ),
    "link": (
        "And the partner team of {who}'s team, how many are they?",
        "How many people would come if we invited the partner team of {who}'s team?",
        "I know the team of {who}. Now I need the size of its partner team.",
        "Headcount of the team that is partner to {who}'s?",
        "Give me the member count of the partner team of the team {who} works in.",
        "We invite the team that is the partner of {who}'s. How many members should we expect?",
        "{who} belongs to a team, and that team has a partner. How big is the partner team?",
    ),
    "pair": (
        "{who}'s team and {who2}'s team share one office. How many members sit there?",
        "I invite the teams of {who} and {who2}. How many people should I expect?",
        "Team of {who} and team of {who2}, how many people in total?",
    ),
}

_PARCELS: More = {
    "name": (
        "Who's got the parcel for {who}? I mean the driver.",
        "{who} wants to thank the driver of the parcel. What is the driver's name?",
        "Name the driver of the van with {who}'s parcel.",
        "Do you know who drives the parcel to {who}?",
        "I need to reach the driver who is carrying something for {who}. Who is that?",
    ),
    "number": (
        "{who}'s parcel: how many stops has the van got?",
        "Give me the stop count of the van with {who}'s parcel.",
        "{who} asks how many stops there are on the tour of the van with the parcel.",
        "On its whole tour, how many stops does the van with {who}'s parcel make?",
        "How many stops in total for the van that has the parcel {who} ordered?",
    ),
    "calc": (
        "The van with {who}'s parcel is through with {n} stops. How many are to come?",
        "Subtract {n} from the stops of the van with {who}'s parcel. How many remain?",
        "{who} is getting impatient: {n} stops done by the van with the parcel, and how many more to do?",
        "{n} stops off the list for the van with the parcel for {who}. How many are on it still?",
        "If the driver with {who}'s parcel goes home after {n} stops, how many stops are not made?",
        "How many stops has the van with {who}'s parcel left, now that {n} are finished?",
    ),
    "link": (
        "And the van after the one with {who}'s parcel, how many stops?",
        "Give me the stop count of the van coming next after the one with {who}'s parcel.",
        "{who}'s parcel is in one van. I need the number of stops of the next van.",
        "Which number of stops does the next van have, counted from the one with the parcel for {who}?",
        "Once the van with {who}'s parcel is gone, another comes next. How many stops does it have?",
        "On its tour, how many stops does the van make that follows the van with the parcel for {who}?",
        "Look for {who}'s parcel, see which van is next after that van, and tell me its stops.",
    ),
    "pair": (
        "{who}'s van and {who2}'s van, both with parcels: how many stops in total?",
        "Two vans carry the parcels for {who} and for {who2}. What do their stops add up to?",
        "Give me the stops of the vans with the parcels for {who} and {who2} as one number.",
    ),
}

_LOANS: More = {
    "name": (
        "Who's the author of what {who} borrowed?",
        "I like the book {who} has. Who wrote it?",
        "Name the author of the book that {who} took.",
        "Do you know the writer of the book lent to {who}?",
        "{who} has a book of ours at home. Whose work is it?",
    ),
    "number": (
        "How many pages must {who} read to finish the whole book?",
        "{who}'s book: how many pages?",
        "Give me the total of pages of the book {who} borrowed.",
        "I wonder how many pages the book has that {who} took.",
        "Is it a long book that {who} borrowed? Tell me the pages.",
    ),
    "calc": (
        "{who} put the borrowed book aside after {n} pages. How many are left?",
        "Subtract {n} from the pages of the book {who} borrowed. How many remain?",
        "{who} has managed {n} pages of our book. What number of pages is yet to be read?",
        "How many pages of the book has {who} not read, if {n} are read?",
        "The book of {who} has a bookmark after {n} pages. How many pages come behind it?",
        "How many pages are left for {who} to read, now that {n} are through?",
    ),
    "link": (
        "And the sequel of {who}'s book, how many pages?",
        "Give me the page count of the sequel to the book {who} took.",
        "{who} liked the book and asks for the sequel. How long is it, in pages?",
        "What length does the sequel to {who}'s book have, in pages?",
        "We also have the sequel of the book {who} borrowed. How many pages are in that?",
        "Is the sequel to {who}'s book long? I need its number of pages.",
        "Look for {who}'s loan, see what the sequel is, and tell me its pages.",
    ),
    "pair": (
        "{who}'s book and {who2}'s book, how many pages in total?",
        "Two books are out, one with {who} and one with {who2}. What do their pages add up to?",
        "Give me the pages of the books lent to {who} and {who2} as one number.",
    ),
}

_LENT: More = {
    "name": (
        "Where's the {who}? The street will do.",
        "I need to fetch the {who}. What street is that?",
        "Name the street where our {who} is.",
        "Do you know the street of whoever has the {who}?",
        "The {who} is not in the garage, because it is lent out. In which street is it?",
    ),
    "number": (
        "The {who}: how many minutes by bike?",
        "I hop on my bike and get the {who}. How many minutes does it take to reach it?",
        "Give me the minutes by bike to the one who has the {who}.",
        "How long must I pedal to get to the {who}, in minutes?",
        "How near is the {who}, in minutes by bike?",
    ),
    "calc": (
        "I pedal to the {who} {n} times. How many minutes is that in all, one way each?",
        "Multiply the minutes by bike to the {who} by {n}. How many minutes is it?",
        "{n} bike trips, each of them to the person with the {who}: how many minutes altogether?",
        "My brother cycled to the person with the {who} on {n} mornings. How many minutes did the ways there take?",
        "The same ride to the {who}, {n} times over: how many minutes by bike?",
        "If I need the {who} {n} times and cycle there each time, how many minutes do the rides there take?",
    ),
    "link": (
        "And to the neighbour of the person with the {who}, how many minutes by bike?",
        "Give me the minutes by bike to the neighbour of whoever has the {who}.",
        "Nobody opens where the {who} is, so I try the neighbour. How many minutes by bike is that from home?",
        "How long must I pedal to the neighbour of the person with the {who}, in minutes?",
        "Whoever borrowed the {who} has a neighbour. How many minutes by bike is the neighbour away?",
        "I need the neighbour of the person with the {who}. How many minutes by bike is it to get there?",
        "Look who has the {who}, see who the neighbour is, and tell me the minutes by bike.",
    ),
    "pair": (
        "The {who} and the {who2}: how many minutes by bike in total?",
        "Two things are lent out, the {who} and the {who2}. What do the minutes by bike add up to?",
        "Give me the minutes by bike to the {who} and to the {who2} as one number.",
    ),
}

_REPAIRS: More = {
    "name": (
        "Where does the {who} go for repair? The town will do.",
        "I have the {who} in my car and want it repaired. Which town do I drive to?",
        "Name the town of the {who}'s mechanic.",
        "Do you know in which town they repair our {who}?",
        "The {who} broke down. In what town is the one who can fix it?",
    ),
    "number": (
        "The {who}: how many dollars an hour?",
        "What do I pay the {who}'s mechanic for every hour, in dollars?",
        "Give me the dollars per hour for the one who repairs the {who}.",
        "Is the mechanic of the {who} expensive? Tell me the dollars an hour.",
        "How much money does the mechanic for the {who} get for an hour, in dollars?",
    ),
    "calc": (
        "Multiply the hourly price for the {who} by {n}. How many dollars is it?",
        "The {who} was in repair for {n} hours. What do I owe, in dollars?",
        "{n} hours on the {who} are on the bill. What sum is that, in dollars?",
        "They say the {who} will take {n} hours to repair. How much will it be, in dollars?",
        "What is due for {n} hours of fixing the {who}, in dollars?",
        "The mechanic of the {who} stays for {n} hours. How many dollars does that cost us?",
    ),
    "link": (
        "And the helper of the {who}'s mechanic, how many dollars an hour?",
        "Give me the dollars per hour for the helper of the one who repairs the {who}.",
        "The mechanic for the {who} is away, and the helper comes. How many dollars an hour do we pay the helper?",
        "How much money does the helper of the mechanic for the {who} get for an hour, in dollars?",
        "Is the helper of the {who}'s mechanic cheap? Tell me the dollars an hour.",
        "Whoever repairs the {who} has a helper. What is the hourly price of the helper, in dollars?",
        "Look who repairs the {who}, see who the helper is, and tell me the dollars an hour.",
    ),
    "pair": (
        "The {who} and the {who2}, one hour each: how many dollars in total?",
        "Two mechanics come for an hour, one for the {who}, one for the {who2}. What do they cost us, in dollars?",
        "Give me the dollars an hour for the {who} and for the {who2} as one number.",
    ),
}

_BEDS: More = {
    "name": (
        "What's the soil for the {who}?",
        "I want to buy more soil for the {who}. Which kind do they have?",
        "Name the soil in the bed of the {who}.",
        "Do you know what soil we put the {who} into?",
        "What sort of ground do our {who} have, I mean which soil?",
    ),
    "number": (
        "The {who}: how many litres a day?",
        "How thirsty is the bed with the {who}, in litres a day?",
        "Give me the litres per day for the bed of the {who}.",
        "What do I pour on the bed with the {who} every day, in litres?",
        "It is my turn to water the {who} today. How many litres do they need?",
    ),
    "calc": (
        "Multiply the litres a day for the {who} by {n}. How many litres is it?",
        "We go away for {n} days. How many litres should the neighbours give the {who} in all?",
        "The bed with the {who} gets its water {n} days running. How many litres is that?",
        "A dry spell of {n} days: how many litres will the {who} need?",
        "How many litres have the {who} had after {n} days of watering?",
        "What does the bed with the {who} drink in {n} days, in litres?",
    ),
    "link": (
        "And the bed beside the {who}, how many litres a day?",
        "Give me the litres per day for the bed next to the one with the {who}.",
        "How thirsty is the bed beside the one with the {who}, in litres a day?",
        "What do I pour every day on the bed that lies next to the {who}, in litres?",
        "I know how much the {who} get. Now tell me the litres a day of the bed beside them.",
        "The {who} have another bed at their side. How many litres a day does that one need?",
        "Look where the {who} grow, see which bed is beside it, and tell me its litres a day.",
    ),
    "pair": (
        "The {who} and the {who2}: how many litres a day in total?",
        "I fill one tank for a day of both the {who} and the {who2}. How many litres must be in it?",
        "Give me the litres a day for the {who} and the {who2} as one number.",
    ),
}

_HIKES: More = {
    "name": (
        "Who's guiding {who}?",
        "{who} left a hat in the hut, and I want to tell the guide of the group. Who is the guide?",
        "Name the guide of the group that {who} is with.",
        "Do you know who guides the group of {who}?",
        "Which person shows {who}'s group the way as the guide?",
    ),
    "number": (
        "{who}'s group: how many kilometres?",
        "Give me the kilometres of the group that {who} is with.",
        "Is it a long hike for {who}'s group? Tell me the kilometres.",
        "I wonder how many kilometres {who} is going to walk with the group.",
        "How many kilometres in total has the tour of {who}'s group?",
    ),
    "calc": (
        "Subtract {n} from the kilometres of {who}'s group. How many remain?",
        "{who} is tired after {n} kilometres with the group. How many kilometres must they still walk?",
        "{n} kilometres down for {who}'s group. How many are there to go?",
        "If the group of {who} gives up after {n} kilometres, how many kilometres are not walked?",
        "How many kilometres has the group of {who} left, now that {n} are behind them?",
        "The group with {who} takes a break, {n} kilometres being done. How long is the remaining way, in kilometres?",
    ),
    "link": (
        "And the sister group of {who}'s group, how many kilometres?",
        "Give me the kilometres of the sister group of the group that {who} is with.",
        "I know the walk of {who}'s group. Now I need the kilometres of its sister group.",
        "Is it a long hike for the sister group of {who}'s group? Tell me the kilometres.",
        "{who} walks with one group and would rather join its sister group. How many kilometres would that be?",
        "On its tour, how many kilometres does the group cover that is the sister group of {who}'s?",
        "Look for the group of {who}, see which is its sister group, and tell me its kilometres.",
    ),
    "pair": (
        "{who}'s group and {who2}'s group, how many kilometres in total?",
        "Two groups are out, one with {who} and one with {who2}. What do their kilometres add up to?",
        "Give me the kilometres of the groups of {who} and {who2} as one number.",
    ),
}

_TENANTS: More = {
    "name": (
        "Who's the owner where {who} lives?",
        "{who} has a broken window and must tell the owner of the house. Who is the owner?",
        "Name the owner of the house that {who} lives in.",
        "Do you know whose house {who} rents a flat in?",
        "Which person does the home of {who} belong to?",
    ),
    "number": (
        "{who}: how many dollars of rent?",
        "Give me the rent of {who} in dollars.",
        "Is the rent of {who} high? Tell me the dollars.",
        "I wonder what {who} pays for the flat, in dollars a month.",
        "How many dollars go to the owner from {who} each month?",
    ),
    "calc": (
        "Multiply the rent of {who} by {n}. How many dollars is it?",
        "{who} moves out after {n} months. How many dollars of rent were that?",
        "The owner gets {n} rents from {who}. How many dollars is that in all?",
        "{n} months, always the same rent: how many dollars does {who} pay altogether?",
        "How many dollars has {who} spent on the flat after {n} months?",
        "If {who} wants to pay {n} months in advance, how many dollars does it take?",
    ),
    "link": (
        "And next door to {who}'s house, how many dollars is the rent?",
        "Give me the rent of the house next door to the one {who} lives in, in dollars.",
        "I know what {who} pays. Now I need the rent in the house next door, in dollars.",
        "Is the rent high next door to {who}'s house? Tell me the dollars.",
        "{who} wants to move one house further, next door. What rent is it there, in dollars?",
        "How many dollars a month do people pay who live next door to the house of {who}?",
        "Look where {who} lives, see which house is next door, and tell me its rent.",
    ),
    "pair": (
        "{who} and {who2}: how many dollars of rent for a month in total?",
        "Two tenants pay today, {who} and {who2}. What do their rents add up to, in dollars?",
        "Give me the monthly rents of {who} and {who2} as one number.",
    ),
}

CHAT: Mapping[str, More] = {
    "staff": _STAFF,
    "parcels": _PARCELS,
    "loans": _LOANS,
    "lent": _LENT,
    "repairs": _REPAIRS,
    "beds": _BEDS,
    "hikes": _HIKES,
    "tenants": _TENANTS,
}
