# What may run in production (seed section 0; roster A9). Anything this file does not allow is denied.
#
# input.deployments: Deployments as the cluster gives them, live or planned
# input.images:      [{"service": …, "image": …}] as the plan releases them
package admission

import rego.v1

default allow := false

allow if {
	count(input.deployments) > 0
	count(input.images) > 0
	count(deny) == 0
}

obligations contains "verify signatures at deploy" if count(input.images) > 0

required_labels := {"app.kubernetes.io/name", "app.kubernetes.io/part-of", "track"}

# -- images -------------------------------------------------------------------------------------------

pinned(image) if regex.match(`^[^@\s]+@sha256:[0-9a-f]{64}$`, image)

deny contains message if {
	some one in input.images
	not pinned(one.image)
	message := sprintf("plan: the image of %s is a mutable reference", [service_of(one)])
}

deny contains message if {
	some one in containers
	not pinned(one.container.image)
	message := sprintf("%s: container %s runs a mutable image reference", [one.where, one.name])
}

# Not object.get with a text as default: the embedded engine gives that text back with its quotes.
name_of(holder) := holder.name if {
	is_string(holder.name)
} else := "unnamed"

service_of(image) := image.service if {
	is_string(image.service)
} else := "unnamed"

# A message that needs a missing name would be undefined, and an undefined denial denies nothing.
workloads contains {"name": name_of(object.get(one, "metadata", {})), "object": one} if {
	some one in input.deployments
}

# -- labels -------------------------------------------------------------------------------------------

deny contains message if {
	some one in workloads
	some label in required_labels
	not one.object.metadata.labels[label]
	message := sprintf("%s: label %s is missing", [one.name, label])
}

deny contains message if {
	some one in workloads
	some label in required_labels
	not one.object.spec.template.metadata.labels[label]
	message := sprintf("%s: pod label %s is missing", [one.name, label])
}

# -- pods ---------------------------------------------------------------------------------------------

deny contains message if {
	some one in workloads
	not one.object.spec.template.spec.securityContext.runAsNonRoot == true
	message := sprintf("%s: pods may run as root", [one.name])
}

deny contains message if {
	some one in workloads
	not one.object.spec.template.spec.securityContext.seccompProfile.type == "RuntimeDefault"
	message := sprintf("%s: pods have no seccomp profile", [one.name])
}

deny contains message if {
	some one in workloads
	some field in ["hostNetwork", "hostPID", "hostIPC"]
	shared := object.get(one.object.spec.template.spec, field, false)
	not shared == false
	message := sprintf("%s: %s is shared with the node", [one.name, field])
}

deny contains message if {
	some one in workloads
	not count(one.object.spec.template.spec.containers) > 0
	message := sprintf("%s: no containers", [one.name])
}

# -- containers ---------------------------------------------------------------------------------------

containers contains {
	"where": one.name,
	"name": name_of(container),
	"container": container,
} if {
	some one in workloads
	some kind in ["containers", "initContainers"]
	some container in object.get(one.object.spec.template.spec, kind, [])
}

deny contains message if {
	some one in containers
	not one.container.securityContext.allowPrivilegeEscalation == false
	message := sprintf("%s: container %s may escalate privileges", [one.where, one.name])
}

deny contains message if {
	some one in containers
	not one.container.securityContext.readOnlyRootFilesystem == true
	message := sprintf("%s: container %s can write its root file system", [one.where, one.name])
}

deny contains message if {
	some one in containers
	not one.container.securityContext.runAsNonRoot == true
	message := sprintf("%s: container %s may run as root", [one.where, one.name])
}

deny contains message if {
	some one in containers
	privileged := object.get(one.container.securityContext, "privileged", false)
	not privileged == false
	message := sprintf("%s: container %s is privileged", [one.where, one.name])
}

deny contains message if {
	some one in containers
	not "ALL" in one.container.securityContext.capabilities.drop
	message := sprintf("%s: container %s keeps capabilities", [one.where, one.name])
}

deny contains message if {
	some one in containers
	not one.container.resources.limits.memory
	message := sprintf("%s: container %s has no memory limit", [one.where, one.name])
}
