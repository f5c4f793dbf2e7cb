/* Changes an entry of K and reads an entry of the output.
 *
 *   cc hello.c -o hello $(pkg-config --cflags --libs attn)
 *   ./hello [SOCKET] */
#include <attn.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    struct att_connect_options options = {.socket = argc > 1 ? argv[1] : NULL};
    struct att_client *client;
    struct att_error error;
    double value, bound;

    if (att_connect(&options, &client, &error) != ATT_OK) {
        fprintf(stderr, "hello: %s\n", error.text);
        return 1;
    }
    enum att_status status = att_query(client, 5, 3, &value, &bound);
    if (status == ATT_OK) {
        printf("O[5][3] is %.9g, at most %.2g from the truth\n", value, bound);
        status = att_update_k(client, 17, 3, 0.25); /* K[17][3] += 0.25 */
    }
    if (status == ATT_OK)
        status = att_query(client, 5, 3, &value, &bound);
    if (status == ATT_OK)
        printf("after the update, %.9g\n", value);
    else
        fprintf(stderr, "hello: %s: %s\n", att_status_name(status), att_last_error(client));
    att_close(client);
    return status == ATT_OK ? 0 : 1;
}
