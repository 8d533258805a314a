#!/usr/bin/env bash
# What Spark asks of an image on Kubernetes: `driver ...` is spark-submit in client mode within the pod, `executor` is an executor of
# the driver that SPARK_DRIVER_URL names, and anything else is run as it stands.
set -euo pipefail

case "${1:-}" in
    driver)
        shift
        exec "$SPARK_HOME/bin/spark-submit" \
            --conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" \
            --conf "spark.executorEnv.SPARK_DRIVER_POD_IP=$SPARK_DRIVER_BIND_ADDRESS" \
            --deploy-mode client "$@"
        ;;
    executor)
        # Java options come one a variable, numbered: SPARK_JAVA_OPT_0, SPARK_JAVA_OPT_1, ...
        options=()
        while IFS= read -r -d '' variable; do
            if [[ $variable == SPARK_JAVA_OPT_* ]]; then options+=("${variable#*=}"); fi
        done < <(env -0 | sort -z -t_ -k4n)
        exec "$JAVA_HOME/bin/java" "${options[@]}" "-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY" \
            -cp "${SPARK_CLASSPATH:-}:$SPARK_HOME/jars/*" \
            org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
            --driver-url "$SPARK_DRIVER_URL" --executor-id "$SPARK_EXECUTOR_ID" --cores "$SPARK_EXECUTOR_CORES" \
            --app-id "$SPARK_APPLICATION_ID" --hostname "$SPARK_EXECUTOR_POD_IP" \
            --resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" --podName "$SPARK_EXECUTOR_POD_NAME"
        ;;
    *)
        exec "$@"
        ;;
esac
