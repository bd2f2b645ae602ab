"""What travels through the shop's topics: JSON of these."""

from pydantic import BaseModel, Field


class Order(BaseModel):
    """In ``orders``, under the customer's name."""

    customer: str = Field(min_length=1)
    item: str
    cents: int = Field(gt=0)


class Invoice(BaseModel):
    """In ``invoices``, under the same key."""

    customer: str
    item: str
    total: int
