"""A small invented office for the workplace environment: its tables and three tasks."""

import json
from pathlib import Path
from typing import Any

TABLES = {
    "emails.csv": """email_id,inbox/outbox,sender/recipient,subject,sent_datetime,body
00000002,inbox,ada.moss@north.example,Plan for the harbour,2023-11-02 09:00:00,"Hi,\\n\\nsee the plan"
00000000,inbox,ben.orr@north.example,Budget (draft),2023-11-05 10:30:00,Numbers attached
00000001,inbox,ada.moss@north.example,Harbour visit,2023-11-09 08:15:00,On Friday
""",
    "calendar_events.csv": """event_id,event_name,participant_email,event_start,duration
00000001,Harbour walk,ada.moss@north.example,2023-12-01 09:00:00,30
00000000,Budget talk,ben.orr@north.example,2023-12-01 15:00:00,60
00000002,Review,cleo.ray@north.example,2023-12-04 11:00:00,90
""",
    "project_tasks.csv": """task_id,task_name,assigned_to_email,list_name,due_date,board
00000000,Draw the quay,ada.moss@north.example,Backlog,2023-12-05,Design
00000002,Fix the crane page,ben.orr@north.example,In Progress,2023-12-06,Front end
00000001,Index the ledger,ben.orr@north.example,Completed,2023-11-20,Back end
""",
    "customer_relationship_manager_data.csv": """customer_id,assigned_to_email,customer_name,customer_email,customer_phone,last_contact_date,product_interest,status,follow_up_by,notes
00000001,ada.moss@north.example,Dora Finch,dora.finch@quayside,,2023-11-09 23:59:00,Software,Lead,2023-12-09 23:59:00,
00000000,ben.orr@north.example,Eli Gray,eli.gray@millrace,555-0101,2023-11-20 23:59:00,Training,Won,2023-12-20 23:59:00,Met in person.
""",
    "analytics_data.csv": """date_of_visit,visitor_id,page_views,session_duration_seconds,traffic_source,user_engaged
2023-11-02,0007,3,10,direct,True
2023-11-01,0007,1,5,referral,False
2023-11-02,0042,8,20,social media,False
""",
    "email_addresses.csv": "ada.moss@north.example\nben.orr@north.example\ncleo.ray@north.example\n",
}


def write_tables(folder: Path) -> Path:
    """The six files of the office, in a folder that is made."""
    folder.mkdir(exist_ok=True)
    for name, text in TABLES.items():
        (folder / name).write_text(text)
    return folder


def task_line(number: int, request: str, truth: list[tuple[str, dict[str, Any]]], **fields: Any) -> dict[str, Any]:
    """A dataset row whose ground truth is the calls."""
    return {
        "id": number,
        "responses_create_params": {
            "input": [{"role": "system", "content": "You work in an office."}, {"role": "user", "content": request}],
            "tools": [{"type": "function", "name": "email_delete_email", "parameters": {}, "strict": False}],
            "temperature": 1.0,
        },
        "ground_truth": [{"name": name, "arguments": json.dumps(arguments)} for name, arguments in truth],
        "category": "office",
        "environment_name": "workplace_assistant",
        **fields,
    }


TASKS = [
    task_line(0, "Delete Ben's mail", [("email_delete_email", {"email_id": "00000000"})]),
    task_line(1, "How many visits?", []),
    task_line(
        2,
        "Move the review to Tuesday",
        [("calendar_update_event", {"event_id": "00000002", "field": "event_start", "new_value": "2023-12-05 11:00:00"})],
    ),
]  # fmt: skip
