# Who may do what to a release, and what is asked of them besides (seed sections 4 and 5, P3; roster A19).
#
# The document asked for is `decision`: {"allow": …, "obligations": [{"name": …, …}], "reasons": […]}.
# What this file does not allow is denied, and so is a question that leaves something out.
#
# Allowed to whom (RBAC), in prod:
#   promote, flip   those in `operators` of the action; or anybody once as many people have approved as the
#                   plan asks for, because then those with the right have said so; or, where the plan waives
#                   approvals, whoever runs the release: such a plan lists no people who could have groups
#   resume          those in `operators`; whoever runs it where approvals are waived, or in a rehearsal
#   approve         those in a group that counts for what is asked (all listed people where the plan names
#                   no group); never where approvals are waived
#   break-glass     those in `operators`, in every environment; never where approvals are waived: there is
#                   nobody who could be the second person
#   rollback        always, everybody: an abort is exempt
# Below prod (ABAC), promote, flip, resume and approve are anybody's who can reach the run.
#
# A promotion or flip in prod is denied besides while: no gate was judged, or one neither passed nor was
# overridden; headroom is known and below its target; an exception is unapproved or expired; a risk is open
# that is neither low nor medium; approvals the plan asks for are missing.
#
# Obligations, in prod:
#   reason_for_access  break-glass, resume, approving something elevated (break-glass, an exception, an
#                      irreversible act); promote and flip under an override or an exception, and of a
#                      REDUCED release outside a rehearsal
#   step_up_mfa        break-glass, resume, approving something elevated; not where approvals are waived
#                      (nobody has a factor on record), nor for resuming a rehearsal. Never for promote: it
#                      is decided again at each step, and a factor growing old must not hold up a canary
# In every environment:
#   second_person      break-glass, unless the plan has it reviewed afterwards instead
package cockpit.release

import rego.v1

decision := {
	"allow": allow,
	"obligations": [one | some one in obligations],
	"reasons": [one | some one in reasons],
}

mfa_max_age_s := 900

reason_min_length := 10

actions := {"promote", "flip", "rollback", "break-glass", "resume", "approve"}

environments := {"dev", "stage", "prod"}

operators := {
	"promote": {"release", "sre", "platform", "oncall"},
	"flip": {"release", "product", "sre", "oncall"},
	"resume": {"release", "sre", "platform", "oncall"},
	"break-glass": {"sre", "platform", "security", "oncall"},
}

elevated_approvals := {"break-glass", "exception", "irreversible"}

default allow := false

allow if input.action == "rollback"

allow if {
	input.action != "rollback"
	count(denials) == 0
}

# An allowed rollback gives no reason against itself.
reasons contains one if {
	not allow
	some one in denials
}

# -- the question -------------------------------------------------------------------------------------

# A condition on something that is not there is undefined, and an undefined denial denies nothing: so
# everything asked for below has to be there, in its type.
complete if {
	is_string(input.action)
	is_string(input.environment)
	is_string(input.subject.id)
	input.subject.id != ""
	is_array(input.subject.groups)
	is_boolean(input.release.rehearsal)
	is_array(input.release.reduced)
	is_string(input.release.version)
	is_string(input.release.plan_sha256)
	is_object(input.gates)
	is_number(input.headroom.target)
	is_array(input.exceptions)
	is_array(input.risks_open)
	is_boolean(input.approvals.waived)
	is_number(input.approvals.needed)
	is_array(input.approvals.given)
	is_array(input.approvals.groups)
	is_array(input.approvals.people)
	is_string(input.approvals.asked)
}

denials contains "the question is incomplete" if not complete

# Engines differ over `not` around an `in` whose left side is undefined: here it never is.
denials contains "there is no such action" if {
	complete
	not input.action in actions
}

denials contains "there is no such environment" if {
	complete
	not input.environment in environments
}

# -- who ----------------------------------------------------------------------------------------------

denials contains message if {
	complete
	not may
	message := sprintf("%s may not %s in %s", [input.subject.id, input.action, input.environment])
}

may if input.action == "rollback"

may if {
	input.environment in {"dev", "stage"}
	input.action in {"promote", "flip", "resume", "approve"}
}

may if {
	some group in input.subject.groups
	group in operators[input.action]
	not outside_directory
}

may if {
	input.action in {"promote", "flip", "resume"}
	input.approvals.waived == true
}

may if {
	input.action in {"promote", "flip"}
	approved
}

may if {
	input.action == "resume"
	input.release.rehearsal == true
}

may if {
	input.action == "approve"
	input.approvals.waived == false
	some group in input.subject.groups
	group in input.approvals.groups
}

may if {
	complete
	input.action == "approve"
	input.approvals.waived == false
	count(input.approvals.groups) == 0
	input.subject.id in input.approvals.people
}

# Break-glass without people has no second person.
outside_directory if {
	input.action == "break-glass"
	input.approvals.waived == true
}

givers contains one if some one in input.approvals.given

approved if {
	complete
	input.approvals.waived == false
	input.approvals.needed > 0
	count(givers) >= input.approvals.needed
}

# -- when ---------------------------------------------------------------------------------------------

# Counting what is no list is an error, not a deny: so nothing is counted before all of it is there.
promoting if {
	complete
	input.action in {"promote", "flip"}
	input.environment == "prod"
}

denials contains "no gate was judged" if {
	promoting
	count(input.gates) == 0
}

denials contains message if {
	promoting
	some gate, result in input.gates
	not result in {"pass", "overridden"}
	message := sprintf("gate %s has not passed", [gate])
}

denials contains "headroom is below its target" if {
	promoting
	is_number(input.headroom.observed)
	input.headroom.observed < input.headroom.target
}

denials contains "an exception is unapproved or expired" if {
	promoting
	some one in input.exceptions
	not in_force(one)
}

in_force(one) if {
	one.approved == true
	one.expired == false
}

denials contains "a high risk is open" if {
	promoting
	some one in input.risks_open
	not bearable(one)
}

bearable(one) if one.rating in {"low", "medium"}

denials contains "approvals are missing" if {
	promoting
	input.approvals.waived == false
	count(givers) < input.approvals.needed
}

# -- what is asked besides ----------------------------------------------------------------------------

elevated if {
	input.environment == "prod"
	input.action in {"break-glass", "resume"}
}

elevated if {
	input.environment == "prod"
	input.action == "approve"
	input.approvals.asked in elevated_approvals
}

explained if elevated

explained if {
	promoting
	some result in input.gates
	result == "overridden"
}

explained if {
	promoting
	count(input.exceptions) > 0
}

explained if {
	promoting
	count(input.release.reduced) > 0
	input.release.rehearsal == false
}

rehearsed_resume if {
	input.action == "resume"
	input.release.rehearsal == true
}

obligations contains {"name": "reason_for_access", "min_length": reason_min_length} if explained

obligations contains {"name": "step_up_mfa", "max_age_s": mfa_max_age_s} if {
	elevated
	not input.approvals.waived == true
	not rehearsed_resume
}

obligations contains {"name": "second_person"} if {
	input.action == "break-glass"
	not input.approvals.second_person == false
}
