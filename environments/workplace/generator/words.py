"""The words that tables and tasks are made of. All invented here."""

FIRST_NAMES = (
    *("adela", "amir", "anouk", "arun", "beatriz", "bjorn", "chiara", "cormac", "dalia", "dario", "edith", "emeka"),
    *("farah", "felix", "gita", "goran", "hanna", "hugo", "ingrid", "ismail", "jana", "joao", "kaori", "kofi"),
    *("leila", "lorenz", "maeve", "mateo", "nadira", "nils", "oksana", "omar", "paloma", "piotr", "qiang", "rania"),
    *("rufus", "saskia", "stefan", "tamar", "teodor", "uma", "viggo", "wanjiru", "xenia", "yara", "yusuf", "zoltan"),
)
LAST_NAMES = (
    *("abend", "aydin", "barros", "birk", "castell", "cho", "dahl", "deveraux", "ekberg", "ferro", "fontaine", "gallo"),
    *("grabski", "haddad", "holm", "ito", "ivanova", "jarvis", "kaya", "kessler", "lindqvist", "lowe", "marchetti"),
    *("mbeki", "moreau", "nakata", "novak", "okafor", "ostberg", "palmer", "pereira", "quist", "rahimi", "rinaldi"),
    *("sandoval", "sato", "tanaka", "thorne", "ueda", "unger", "vargas", "vogel", "wexler", "wirth", "yilmaz", "zeman"),
    *("zhou", "zimmer"),
)
CLIENT_FIRST = (
    *("Alma", "Bruno", "Cecily", "Desmond", "Elsa", "Fabian", "Greta", "Harold", "Iris", "Jasper", "Klara", "Lionel"),
    *("Mona", "Nestor", "Olive", "Percy", "Quentin", "Rosa", "Silas", "Thea", "Ursula", "Victor", "Wilma", "Yvonne"),
)
CLIENT_LAST = (
    *("Ashdown", "Bellweather", "Carrow", "Dunmore", "Eastlake", "Farrow", "Glenn", "Hartwell", "Inglis", "Joyner"),
    *(
        "Kestrel",
        "Lockhart",
        "Merriman",
        "Northcott",
        "Oakes",
        "Pemberton",
        "Quill",
        "Redfern",
        "Sterling",
        "Thackeray",
    ),
    *("Underhill", "Vickers", "Wainwright", "Yardley"),
)
COMPANIES = (
    *("brightwell", "cedarworks", "coppergate", "driftline", "elmstead", "fernhill", "goldleaf", "highmoor"),
    *("ironbridge", "juniperlabs", "kitewind", "larkspur", "millstone", "nightjar", "orchardtech", "pinecrest"),
    *("quarryhouse", "riverbend", "saltmarsh", "tidewater", "umbergroup", "valecraft", "westhaven", "yewtree"),
)
TOPICS = (
    *("budget", "launch", "hiring", "website", "invoice", "security", "onboarding", "contract", "pricing", "roadmap"),
    *(
        "audit",
        "campaign",
        "warehouse",
        "payroll",
        "newsletter",
        "migration",
        "packaging",
        "travel",
        "partner",
        "survey",
    ),
    *("insurance", "training", "licence", "forecast"),
)
MATTERS = (
    *("review", "planning", "workshop", "update", "briefing", "retrospective", "kickoff", "handover", "discussion"),
    *("walkthrough", "summary", "check", "estimate", "interview"),
)
VERBS = ("Draft", "Fix", "Test", "Document", "Redesign", "Refactor", "Measure", "Simplify", "Translate", "Publish", "Clean up", "Speed up")  # fmt: skip
PARTS = (
    *("login form", "search results", "checkout flow", "price table", "landing page", "export job", "backup script"),
    *("image gallery", "settings panel", "payment webhook", "sign-up email", "help centre", "cache layer"),
    *("order history", "map view", "report builder", "icon set", "audit log", "profile menu", "rate limiter"),
)
PLACES = ("for tablets", "for the partner portal", "for new markets", "for the spring release", "for admins", "for guests", "for the mobile app", "for the data team", "for suppliers", "for the intranet")  # fmt: skip
OPENINGS = ("I wanted to follow up on the", "Here is where we stand with the", "Could you look at the", "A few thoughts about the", "We should talk about the", "Good news about the")  # fmt: skip
CLOSINGS = ("Please let me know what you think.", "No rush, next week is fine.", "I need an answer by Friday.", "Thanks for your patience.", "The numbers are attached.", "Call me if anything is unclear.")  # fmt: skip
MESSAGES = (
    *(
        "thanks, I will look at it tomorrow",
        "looks good to me",
        "can we talk about this next week",
        "please hold this until Monday",
    ),
    *("approved", "let us go ahead", "I have a few questions about this", "could you send me the latest numbers"),
    *("great work on this", "I am out of office until Wednesday", "please add the missing page", "this can wait"),
)
SUBJECTS = (
    *(
        "Quick question",
        "Next steps",
        "Friday lunch",
        "Room change",
        "Numbers for the board",
        "Your opinion",
        "Parking permits",
    ),
    *(
        "New supplier",
        "Team photo",
        "Keys for the archive",
        "Holiday list",
        "Coffee machine",
        "Visitor badges",
        "Printer on floor two",
    ),
)
CONTACTS = ("Sent the brochure", "Spoke on the phone", "Met at the fair", "Asked for a quote", "Wants a second demo", "Prefers email", "Budget on hold", "Referred by a partner")  # fmt: skip
LISTS = ("Backlog", "In Progress", "In Review", "Completed")
BOARDS = ("Back end", "Front end", "Design")
STATUSES = ("Qualified", "Won", "Lost", "Lead", "Proposal")
PRODUCTS = ("Software", "Hardware", "Services", "Consulting", "Training")
SOURCES = ("direct", "social media", "search engine", "referral")
