/* countersign-identityd --check-policy: what policies would do, without a daemon. */
#ifndef CS_POLICY_CHECK_H
#define CS_POLICY_CHECK_H

/* argv after "--check-policy": [--strict] [-o table|json] [--help] FILE|DIR... ("-" is stdin; of a directory: *.yaml
 * and *.yml). Prints a report on stdout, errors on stderr. Exit code: 0 fine; 1 a policy is refused (does not parse,
 * or --strict and a rule is wider than written); 2 usage, or a file cannot be read. */
int cs_policy_check_main(int argc, char **argv);

#endif
