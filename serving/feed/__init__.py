"""The live feed: an exchange's streams in, captures and the service's events out.

venue, rest      where Binance answers, what its streams are called, what a question costs
client, backlog  the connection, and the bounded room between it and whoever reads
books            one state machine a symbol: the one that ingest runs over files
capture, tape    the same lines on disk, as `cift ingest binance` reads them, by a reader of their own
record           a client and a tape: `cift record`
messages         the same lines as the service's messages: pure
sender           messages to a service, acknowledged; decisions, state: what it says back, and where a feed that is started again goes on
join             all of them at work: `cift feed`
recording, exchange  recorded captures served as the exchange would: `cift replay --as-exchange`
"""
