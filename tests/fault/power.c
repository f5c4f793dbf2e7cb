/* Power cuts. A run of attnd --durability always with a client, its snapshots and trims, and its stop, is recorded write
 * by write (preload/record.c). Then disks are made that a power cut could have left, and each is recovered: no
 * acknowledged update may be lost, the state must be that of a prefix, every value must check out.
 *
 * What a cut can leave: all writes that a completed sync of their file covers, and of the others any subset, each whole
 * or torn at 512 bytes or at 4 KiB. A write through an O_DSYNC descriptor is on disk when it has returned. */
#include "fault_support.h"
#include "preload/record.h"

struct event {
    struct record_event head;
    const unsigned char *data;
};

struct recording {
    unsigned char *bytes;
    struct event *events;
    size_t count;
    uint64_t sent;
    size_t syncs, snapshots;
};

/* ---- Recording ---------------------------------------------------------------------------------------------- */

static uint64_t take_acks(struct att_client *client, int record, uint64_t acknowledged, uint32_t timeout_ms)
{
    struct att_completion completions[64];
    int count = att_complete(client, completions, 64, timeout_ms);
    assert_true(count >= 0);
    for (int i = 0; i < count; i++) {
        if (completions[i].status != ATT_OK)
            fail_msg("%s: %s", att_status_name(completions[i].status), att_last_error(client));
        if (completions[i].type != ATT_REQ_SET_TOKEN)
            continue;
        struct record_event ack = {.kind = RECORD_ACK, .offset = completions[i].tag};
        assert_int_equal(completions[i].tag, acknowledged + 1);
        assert_int_equal(completions[i].lsn, completions[i].tag);
        assert_int_equal(write(record, &ack, sizeof ack), sizeof ack);
        acknowledged++;
    }
    return acknowledged;
}

static uint64_t write_traffic(const struct daemon *daemon, const char *path, struct test_random *random)
{
    const uint64_t updates = test_is_long() ? 3000 : 600;
    const struct att_request snapshot = {.type = ATT_REQ_SNAPSHOT};
    struct att_client *client = connect_to(daemon);
    uint64_t acknowledged = 0;
    int record = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_true(record >= 0);
    for (uint64_t n = 1; n <= updates; n++) {
        assert_int_equal(submit_update(client, n), ATT_OK);
        if (random_one_in(random, 90))
            assert_int_equal(att_submit(client, &snapshot), ATT_OK);
        if (random_one_in(random, 8))
            att_push(client);
        if (random_one_in(random, 8))
            acknowledged = take_acks(client, record, acknowledged, random_below(random, 5));
        while (att_in_flight(client) > 100)
            acknowledged = take_acks(client, record, acknowledged, 1000);
    }
    while (att_in_flight(client) > 0)
        acknowledged = take_acks(client, record, acknowledged, 1000);
    assert_int_equal(acknowledged, updates);
    att_close(client);
    close(record);
    return updates;
}

static void parse(struct recording *recording, const char *path)
{
    struct image file = {0};
    size_t capacity = 0;
    image_load(&file, path);
    recording->bytes = file.bytes;
    for (size_t at = 0; at < file.size;) {
        if (recording->count == capacity) {
            capacity = capacity ? 2 * capacity : 1024;
            recording->events = realloc(recording->events, capacity * sizeof *recording->events);
            assert_non_null(recording->events);
        }
        struct event *event = &recording->events[recording->count++];
        assert_true(file.size - at >= sizeof event->head);
        memcpy(&event->head, file.bytes + at, sizeof event->head);
        event->data = file.bytes + at + sizeof event->head;
        at += sizeof event->head + event->head.bytes;
        assert_true(at <= file.size && event->head.file < 2);
        recording->syncs += event->head.kind == RECORD_SYNC;
        recording->snapshots += event->head.kind == RECORD_SYNC && event->head.file == 1;
    }
}

/* ---- Disks that a cut leaves -------------------------------------------------------------------------------- */

static void apply(struct image images[2], const struct event *event)
{
    struct image *image = &images[event->head.file];
    if (event->head.kind == RECORD_TRUNCATE) {
        image_reserve(image, event->head.offset);
        image->size = event->head.offset;
    } else if (event->head.kind == RECORD_WRITE || event->head.kind == RECORD_WRITE_SYNCED) {
        image_reserve(image, event->head.offset + event->head.bytes);
        memcpy(image->bytes + event->head.offset, event->data, event->head.bytes);
    }
}

/* Blocks of `block` bytes of it, each or not. */
static void apply_torn(struct image images[2], const struct event *event, uint64_t block, struct test_random *random)
{
    uint64_t end = event->head.offset + event->head.bytes;
    for (uint64_t at = event->head.offset; at < end;) {
        uint64_t next = (at / block + 1) * block < end ? (at / block + 1) * block : end;
        if (random_one_in(random, 2)) {
            image_reserve(&images[event->head.file], next);
            memcpy(images[event->head.file].bytes + at, event->data + (at - event->head.offset), next - at);
        }
        at = next;
    }
}

enum choice { ALL, NONE, SUBSET, TORN_512, TORN_4096 };

struct cutter {
    const struct recording *recording;
    struct image durable[2], disk[2];
    size_t *pending; /* events that no sync covers yet, in order */
    size_t pending_count;
    size_t at; /* events before it have happened */
    uint64_t acknowledged;
    char directory[64];
    struct test_random random;
    size_t tried;
    bool lying; /* a disk that says it has synced and has not: for the test of this test */
};

static void step(struct cutter *cutter)
{
    const struct event *event = &cutter->recording->events[cutter->at];
    size_t left = 0;
    switch (event->head.kind) {
    case RECORD_ACK:
        cutter->acknowledged = event->head.offset;
        break;
    case RECORD_WRITE_SYNCED:
        apply(cutter->durable, event);
        break;
    case RECORD_SYNC:
        if (cutter->lying)
            break;
        for (size_t i = 0; i < cutter->pending_count; i++) {
            const struct event *pending = &cutter->recording->events[cutter->pending[i]];
            if (pending->head.file == event->head.file)
                apply(cutter->durable, pending);
            else
                cutter->pending[left++] = cutter->pending[i];
        }
        cutter->pending_count = left;
        break;
    default:
        cutter->pending[cutter->pending_count++] = cutter->at;
    }
    cutter->at++;
}

/* The power is cut here: the disk it leaves. */
static void disk_after_cut(struct cutter *cutter, enum choice choice)
{
    for (int i = 0; i < 2; i++)
        image_copy(&cutter->disk[i], &cutter->durable[i]);
    for (size_t i = 0; i < cutter->pending_count; i++) {
        const struct event *event = &cutter->recording->events[cutter->pending[i]];
        bool whole = choice == ALL || (choice == SUBSET && random_one_in(&cutter->random, 2)) ||
                     (choice != NONE && event->head.kind == RECORD_TRUNCATE);
        if (whole)
            apply(cutter->disk, event);
        else if (choice == TORN_512 || choice == TORN_4096)
            apply_torn(cutter->disk, event, choice == TORN_512 ? 512 : 4096, &cutter->random);
    }
    images_store(cutter->disk, cutter->directory);
}

/* And what a start finds on it. */
static struct recovered look_after_cut(struct cutter *cutter, enum choice choice)
{
    disk_after_cut(cutter, choice);
    struct recovered found = recover_directory(cutter->directory, cutter->tried % 16 == 0);
    if (!found.wrong[0] && found.updates < cutter->acknowledged)
        snprintf(found.wrong, sizeof found.wrong, "LOST: update %llu was acknowledged, the disk ends at %llu",
                 (unsigned long long)cutter->acknowledged, (unsigned long long)found.updates);
    if (!found.wrong[0] && found.updates > cutter->recording->sent)
        snprintf(found.wrong, sizeof found.wrong, "an update that was never sent");
    if (!found.wrong[0] && cutter->tried % 16 == 0) { /* and the start after this one */
        struct recovered again = recover_directory(cutter->directory, false);
        if (again.wrong[0] || again.updates != found.updates)
            snprintf(found.wrong, sizeof found.wrong, "at the second start: %.500s", again.wrong);
    }
    return found;
}

static void cut(struct cutter *cutter, enum choice choice)
{
    struct recovered found = look_after_cut(cutter, choice);
    cutter->tried++;
    if (found.wrong[0])
        fail_msg("event %zu of %zu, choice %d, %zu unsynced: %s (%s)", cutter->at, cutter->recording->count, choice,
                 cutter->pending_count, found.wrong, cutter->directory);
}

static void cutter_init(struct cutter *cutter, const struct recording *recording, const struct image base[2])
{
    *cutter = (struct cutter){.recording = recording};
    random_seed(&cutter->random, 77, "cuts");
    snprintf(cutter->directory, sizeof cutter->directory, "%s/att-power-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(cutter->directory));
    cutter->pending = calloc(recording->count + 1, sizeof *cutter->pending);
    assert_non_null(cutter->pending);
    for (int i = 0; i < 2; i++)
        image_copy(&cutter->durable[i], &base[i]);
}

static void cutter_release(struct cutter *cutter)
{
    for (int i = 0; i < 2; i++) {
        free(cutter->durable[i].bytes);
        free(cutter->disk[i].bytes);
    }
    free(cutter->pending);
    remove_tree(cutter->directory);
}

/* This must fail, or the test proves nothing: on a disk that lies about its syncs updates are lost. */
static void assert_lies_are_noticed(const struct recording *recording, const struct image base[2])
{
    struct cutter cutter;
    int noticed = 0, looked = 0;
    cutter_init(&cutter, recording, base);
    cutter.lying = true;
    while (cutter.at < recording->count && looked < 10) {
        bool chosen = cutter.at % 23 == 22 && cutter.acknowledged > 0;
        if (chosen) {
            fflush(stdout);
            pid_t child = fork(); /* what is on such a disk may end a process */
            if (child == 0)
                _exit(look_after_cut(&cutter, NONE).wrong[0] ? 1 : 0);
            int how = 0;
            waitpid(child, &how, 0);
            noticed += how != 0;
            looked++;
        }
        step(&cutter);
    }
    print_message("%d of %d cuts were noticed on a disk that lies\n", noticed, looked);
    assert_true(noticed > looked / 2);
    cutter_release(&cutter);
}

static bool is_boundary(const struct event *event)
{
    return event->head.kind == RECORD_SYNC || event->head.kind == RECORD_WRITE_SYNCED;
}

/* Before and behind every sync (a share of them): nothing unsynced, everything; and random subsets everywhere. */
static void cut_everywhere(const struct recording *recording, const struct image base[2])
{
    const size_t subsets = test_is_long() ? 2000 : 50, boundaries = test_is_long() ? SIZE_MAX : 25;
    struct cutter cutter;
    size_t skip = 1, seen = 0, prefixes = 0;
    cutter_init(&cutter, recording, base);
    if (recording->syncs > boundaries)
        skip = recording->syncs / boundaries;
    while (cutter.at < recording->count) {
        const struct event *event = &recording->events[cutter.at];
        bool chosen = is_boundary(event) && (seen++ / 2) % skip == 0;
        if (chosen) {
            cut(&cutter, ALL);
            cut(&cutter, NONE);
            prefixes += 2;
        }
        step(&cutter);
        if (chosen) {
            cut(&cutter, NONE);
            prefixes++;
        }
        /* So many in all, whatever the number of events. */
        size_t due = subsets * cutter.at / recording->count;
        while (cutter.tried - prefixes < due)
            cut(&cutter, (enum choice)(SUBSET + random_below(&cutter.random, 3)));
    }
    print_message(
        "%zu events, %zu syncs (%zu of snapshots); %zu disks at sync boundaries, %zu random subsets; lost: 0\n",
        recording->count, recording->syncs, recording->snapshots, prefixes, cutter.tried - prefixes);
    cutter_release(&cutter);
}

static void no_power_cut_loses_an_acknowledged_update(void **state)
{
    (void)state;
    struct daemon daemon;
    struct image base[2] = {{0}, {0}};
    struct recording recording = {0};
    struct test_random random;
    char path[200];
    const char *resume[] = {"--durability", "always", "--log-capacity", "64", NULL};
    random_seed(&random, 71, "traffic");
    make_daemon_state(&daemon);
    images_load(base, daemon.dir);
    snprintf(path, sizeof path, "%s/record", daemon.root);
    setenv("ATT_FAULT_RECORD", path, 1);
    preload("tests/fault_record.so", daemon.dir);
    assert_true(daemon_start(&daemon, resume));
    preload(NULL, NULL);
    recording.sent = write_traffic(&daemon, path, &random);
    assert_int_equal(daemon_stop(&daemon, SIGTERM), 0);
    parse(&recording, path);
    assert_true(recording.snapshots > 5);
    /* The recording is complete when it leads to what is on disk. */
    struct image replayed[2] = {{0}, {0}}, now[2] = {{0}, {0}};
    images_load(now, daemon.dir);
    for (int i = 0; i < 2; i++)
        image_copy(&replayed[i], &base[i]);
    for (size_t i = 0; i < recording.count; i++)
        apply(replayed, &recording.events[i]);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(replayed[i].size, now[i].size);
        assert_memory_equal(replayed[i].bytes, now[i].bytes, now[i].size);
        free(replayed[i].bytes);
        free(now[i].bytes);
    }
    assert_lies_are_noticed(&recording, base);
    cut_everywhere(&recording, base);
    for (int i = 0; i < 2; i++)
        free(base[i].bytes);
    free(recording.events);
    free(recording.bytes);
    daemon_release(&daemon);
}

/* ---- Creation ------------------------------------------------------------------------------------------------ */

/* What a cut during the creation left: a state, or remains that the next creation takes away. */
static void look_at_creation(struct cutter *cutter, enum choice choice, size_t counts[2])
{
    struct att_store_options options = {.durability = ATT_DURABLE_ALWAYS}, create = {.create = true};
    struct att_error error = {0};
    struct att_store *store = NULL;
    char path[100];
    disk_after_cut(cutter, choice);
    snprintf(path, sizeof path, "%s/lock", cutter->directory);
    close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)); /* made first */
    enum att_status status = att_store_open(cutter->directory, &options, &store, &error);
    att_store_close(store);
    cutter->tried++;
    if (status == ATT_OK) {
        struct recovered found = recover_directory(cutter->directory, true);
        if (found.wrong[0] || found.updates)
            fail_msg("event %zu, choice %d: %s", cutter->at, choice, found.wrong);
        counts[0]++;
        return;
    }
    if (cutter->acknowledged)
        fail_msg("event %zu, choice %d: attnd was ready, and now: %s", cutter->at, choice, error.text);
    store = NULL;
    enum att_status again = att_store_open(cutter->directory, &create, &store, &error);
    if (again != ATT_OK)
        fail_msg("event %zu, choice %d: %s at the start, and a new creation says: %s", cutter->at, choice,
                 att_status_name(status), error.text);
    att_store_close(store);
    counts[1]++;
}

static void a_power_cut_during_creation_leaves_a_state_or_nothing_in_the_way(void **state)
{
    (void)state;
    struct daemon daemon;
    struct image base[2] = {{0}, {0}};
    struct recording recording = {0};
    struct cutter cutter;
    char path[200], q[200], k[200], v[200];
    size_t counts[2] = {0, 0};
    daemon_init(&daemon);
    write_state_arrays(&daemon);
    snprintf(q, sizeof q, "%s/Q.npy", daemon.root);
    snprintf(k, sizeof k, "%s/K.npy", daemon.root);
    snprintf(v, sizeof v, "%s/V.npy", daemon.root);
    const char *create[] = {"--q", q, "--k", k, "--v", v, NULL};
    snprintf(path, sizeof path, "%s/record", daemon.root);
    setenv("ATT_FAULT_RECORD", path, 1);
    preload("tests/fault_record.so", daemon.dir);
    assert_true(daemon_start(&daemon, create));
    preload(NULL, NULL);
    const struct record_event ready = {.kind = RECORD_ACK, .offset = 1};
    int record = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_int_equal(write(record, &ready, sizeof ready), sizeof ready);
    close(record);
    daemon_stop(&daemon, SIGTERM);
    parse(&recording, path);
    for (int i = 0; i < 2; i++)
        image_reserve(&base[i], 1);
    for (int i = 0; i < 2; i++)
        base[i].size = 0;
    cutter_init(&cutter, &recording, base);
    const int subsets = test_is_long() ? 20 : 3;
    for (;;) {
        remove_tree(cutter.directory);
        look_at_creation(&cutter, ALL, counts);
        remove_tree(cutter.directory);
        look_at_creation(&cutter, NONE, counts);
        for (int i = 0; i < subsets; i++) {
            remove_tree(cutter.directory);
            look_at_creation(&cutter, (enum choice)(SUBSET + random_below(&cutter.random, 3)), counts);
        }
        if (cutter.at == recording.count)
            break;
        step(&cutter);
    }
    print_message("%zu events: %zu disks with a state, %zu with remains\n", recording.count, counts[0], counts[1]);
    assert_true(counts[0] > 0 && counts[1] > 0);
    cutter_release(&cutter);
    for (int i = 0; i < 2; i++)
        free(base[i].bytes);
    free(recording.events);
    free(recording.bytes);
    daemon_release(&daemon);
}

int main(void)
{
    if (!CAN_PRELOAD || !daemon_has("attnd") || !daemon_has("tests/fault_record.so")) {
        printf("skipped: attnd is not built, or cannot be run under a preloaded library\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_power_cut_loses_an_acknowledged_update),
        cmocka_unit_test(a_power_cut_during_creation_leaves_a_state_or_nothing_in_the_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
