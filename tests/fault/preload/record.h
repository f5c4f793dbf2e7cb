/* The events that the recorder writes and the replay reads. An event is this struct, then `bytes` bytes of data. */
#ifndef ATT_TEST_RECORD_H
#define ATT_TEST_RECORD_H

#include <stdint.h>

enum record_kind {
    RECORD_WRITE = 1,        /* on disk only after the file's next RECORD_SYNC */
    RECORD_WRITE_SYNCED = 2, /* through an O_DSYNC descriptor: on disk when it returned; says nothing of other writes */
    RECORD_SYNC = 3,
    RECORD_TRUNCATE = 4, /* to `offset` bytes */
    RECORD_ACK = 5       /* written by the client: update number `offset` is acknowledged */
};

struct record_event {
    uint32_t kind, file; /* file: 0 log, 1 snap */
    uint64_t offset, bytes;
};

#endif
