/* A program of somebody else on an interface, that passes everything: lab_foreign IFNAME ingress|egress|xdp|filter
 * TCX in front of everybody, XDP, or the first filter of clsact's ingress. Says "ok" when attached, and ends with its
 * stdin. */
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include "tcx.h"

static int load(enum bpf_prog_type type, int verdict)
{
	const struct bpf_insn code[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = verdict},
		{.code = BPF_JMP | BPF_EXIT}};
	return bpf_prog_load(type, "foreign", "GPL", code, sizeof(code) / sizeof(code[0]), NULL);
}

static int add_filter(int ifindex)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = 1, .priority = 1, .prog_fd = load(BPF_PROG_TYPE_SCHED_CLS, 0));
	int r = bpf_tc_hook_create(&hook);
	return r < 0 ? r : bpf_tc_attach(&hook, &opts);
}

int main(int argc, char **argv)
{
	char rest[16];
	if (argc < 3)
		return 2;
	int ifindex = (int)if_nametoindex(argv[1]), r;
	if (strcmp(argv[2], "xdp") == 0) {
		r = bpf_xdp_attach(ifindex, load(BPF_PROG_TYPE_XDP, XDP_PASS), XDP_FLAGS_SKB_MODE, NULL);
	} else if (strcmp(argv[2], "filter") == 0) {
		r = add_filter(ifindex);
	} else {
		/* TCX_PASS: passes, and spares the packet everybody behind. */
		r = cs_tcx_link_create(load(BPF_PROG_TYPE_SCHED_CLS, 0), (uint32_t)ifindex,
			strcmp(argv[2], "ingress") == 0 ? CS_FROM : CS_TO, CS_TCX_BEFORE);
	}
	if (r < 0) {
		printf("error %s\n", strerror(-r));
		return 1;
	}
	printf("ok\n");
	fflush(stdout);
	while (read(STDIN_FILENO, rest, sizeof(rest)) > 0)
		;
	if (strcmp(argv[2], "xdp") == 0)
		return bpf_xdp_detach(ifindex, XDP_FLAGS_SKB_MODE, NULL) < 0;
	return 0;
}
